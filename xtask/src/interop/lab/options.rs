//! What the nodes of a run are like: sizes and lines of their configuration.

/// Marks that may be left over when all is in sync, and all disks are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::interop) enum Marks {
    /// None.
    Gone,
    /// Those of two kernels for each other. When they exchange their bitmaps while a third node resyncs one of them,
    /// its reports of what is in sync cross the bitmaps, and one kernel gets back from the other's what it has just
    /// cleared. Nobody reports these blocks again.
    OfKernels,
    /// Those of two Secondaries, too: a node that is cut off from a Primary marks what it has without a peer-ack
    /// towards everybody (data path, section 12.4), and nothing takes these marks away before the two compare
    /// again, not even a promotion. Three kernels do the same.
    OfSecondaries,
}

/// What the nodes of a run are like.
#[derive(Debug, Clone)]
pub(in crate::interop) struct Options {
    /// Size of each disk in bytes.
    pub(in crate::interop) size: u64,
    /// Lines of the `net` section.
    pub(in crate::interop) net: Vec<String>,
    /// Lines of the `disk` section.
    pub(in crate::interop) disk: Vec<String>,
    /// Lines of the `options` section.
    pub(in crate::interop) options: Vec<String>,
    /// Nodes without a disk.
    pub(in crate::interop) diskless: Vec<u8>,
    /// Who of three nodes may keep marks for each other.
    pub(in crate::interop) marks: Marks,
    /// Slots of v09 metadata.
    pub(in crate::interop) max_peers: u8,
    /// Metadata as a DRBD of the 8 series has it, on all nodes.
    pub(in crate::interop) old_metadata: bool,
}

impl Default for Options {
    fn default() -> Options {
        let lines = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Options {
            size: 32 << 20,
            net: lines(&[
                "protocol C",
                "ping-int 2",
                "connect-int 2",
                "timeout 18",
                "ping-timeout 15",
                "max-buffers 8000",
            ]),
            disk: lines(&["c-plan-ahead 0", "resync-rate 200M"]),
            options: lines(&["auto-promote no"]),
            diskless: Vec::new(),
            marks: Marks::Gone,
            max_peers: 7,
            old_metadata: false,
        }
    }
}

impl Options {
    /// Adds a line to the `net` section; one with the same first word goes.
    pub(in crate::interop) fn net(mut self, line: &str) -> Options {
        set(&mut self.net, line);
        self
    }

    /// Adds a line to the `disk` section.
    pub(in crate::interop) fn disk(mut self, line: &str) -> Options {
        set(&mut self.disk, line);
        self
    }

    /// Adds a line to the `options` section.
    pub(in crate::interop) fn option(mut self, line: &str) -> Options {
        set(&mut self.options, line);
        self
    }
}

fn set(lines: &mut Vec<String>, line: &str) {
    let first = |l: &str| l.split_whitespace().next().map(str::to_owned);
    lines.retain(|l| first(l) != first(line));
    lines.push(line.to_owned());
}
