//! What is written, and what the device has to contain.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use drbd_testkit::wait::until;
use drbd_testkit::{Context, Error, Result};

use super::Lab;

const BLOCK: u64 = 4096;

/// Writes under way.
pub(in crate::interop) struct Writing {
    id: u8,
    name: String,
    places: Vec<(u64, u64)>,
    data: Vec<Vec<u8>>,
}

impl Lab {
    /// The model becomes what a node's disk holds.
    pub(in crate::interop) fn learn(&mut self, id: u8) -> Result<()> {
        let side = self.side(id)?;
        // A Secondary's device cannot be opened.
        let size = if self.model.is_empty() {
            let size = side.sh(&format!("blockdev --getsize64 {}", side.device()))?;
            size.trim().parse().context("size")?
        } else {
            self.model.len()
        };
        let mut bytes = std::fs::read(side.disk()).context(side.disk().display())?;
        bytes.truncate(size);
        self.model = bytes;
        Ok(())
    }

    /// The device has another size now: what the model does not have yet is what the node's disk holds.
    pub(in crate::interop) fn resized(&mut self, id: u8, size: u64) -> Result<()> {
        let side = self.side(id)?;
        let size = usize::try_from(size).context("size")?;
        let bytes = std::fs::read(side.disk()).context(side.disk().display())?;
        let new = bytes.get(self.model.len()..size).unwrap_or(&[]).to_vec();
        self.model.truncate(size);
        self.model.extend(new);
        Ok(())
    }

    /// Puts random bytes at some places of a disk that is not in use.
    pub(super) fn fill_disk(&mut self, id: u8) -> Result<()> {
        let path = self.side(id)?.disk().to_owned();
        let file = File::options()
            .write(true)
            .open(&path)
            .context(path.display())?;
        let mut bytes = vec![0; 256 << 10];
        for i in 0..16 {
            self.rng.fill(&mut bytes);
            let at = i * (self.options.size / 16);
            file.write_all_at(&bytes, at).context(path.display())?;
        }
        Ok(())
    }

    /// Random places of the device, in bytes, on block boundaries.
    pub(in crate::interop) fn places(&mut self, count: usize, blocks: u64) -> Vec<(u64, u64)> {
        let all = (self.model.len() as u64 / BLOCK)
            .saturating_sub(blocks)
            .max(1);
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(self.rng.below(all / blocks) * blocks);
        }
        chosen
            .into_iter()
            .map(|b| (b * BLOCK, blocks * BLOCK))
            .collect()
    }

    /// A script that writes random data at these places past the cache, and the data.
    pub(in crate::interop) fn write_script(
        &mut self,
        id: u8,
        places: &[(u64, u64)],
    ) -> Result<(String, Vec<Vec<u8>>)> {
        self.writes += 1;
        let name = format!("data{}", self.writes);
        let side = self.side(id)?;
        let (device, shared) = (side.device(), side.shared(&name));
        let file = side.dir().join(&name);
        let mut data = Vec::new();
        let mut script = String::from("set -e\n");
        let mut at = 0;
        for (offset, len) in places {
            let mut bytes = vec![0; usize::try_from(*len).unwrap_or(0)];
            self.rng.fill(&mut bytes);
            let unit = if offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) {
                BLOCK
            } else {
                512
            };
            // One request if the place is not too long for one.
            let (bs, count, skip, seek) =
                if offset.is_multiple_of(*len) && at % len == 0 && *len <= 1 << 20 {
                    (*len, 1, at / len, offset / len)
                } else {
                    (unit, len / unit, at / unit, offset / unit)
                };
            let _ = writeln!(
                script,
                "dd if={shared} of={device} bs={bs} count={count} skip={skip} seek={seek} oflag=direct conv=notrunc status=none"
            );
            at += len;
            data.push(bytes);
        }
        let _ = writeln!(script, "rm {shared}");
        std::fs::write(&file, data.concat()).context(file.display())?;
        Ok((script, data))
    }

    /// Writes random data at these places on a node, one request after the other.
    pub(in crate::interop) fn write(&mut self, id: u8, places: &[(u64, u64)]) -> Result<()> {
        let (script, data) = self.write_script(id, places)?;
        self.side(id)?.sh(&script)?;
        self.expect(places, &data);
        Ok(())
    }

    /// Writes random data at these places in the background.
    pub(in crate::interop) fn start_writing(
        &mut self,
        id: u8,
        places: &[(u64, u64)],
    ) -> Result<Writing> {
        let (script, data) = self.write_script(id, places)?;
        let name = format!("writer{}", self.writes);
        let side = self.side(id)?;
        let (log, code) = (
            side.shared(&format!("{name}.log")),
            side.shared(&format!("{name}.code")),
        );
        side.sh(&format!("{{ ({script}) >{log} 2>&1; echo $? >{code}.new; mv {code}.new {code}; }} >/dev/null 2>&1 &"))?;
        Ok(Writing {
            id,
            name,
            places: places.to_vec(),
            data,
        })
    }

    /// Waits for the end of what is written in the background, and whether all of it was written.
    pub(in crate::interop) fn end_of(&self, writing: &Writing) -> Result<bool> {
        let side = self.side(writing.id)?;
        let file = side.dir().join(format!("{}.code", writing.name));
        let code = until("the writes end", Duration::from_secs(60), || {
            Ok(std::fs::read_to_string(&file)
                .ok()
                .filter(|t| t.ends_with('\n')))
        })?;
        Ok(code.trim() == "0")
    }

    /// What was written in the background has to have succeeded, and to be there from now on.
    pub(in crate::interop) fn finish(&mut self, writing: &Writing) -> Result<()> {
        if !self.end_of(writing)? {
            let side = self.side(writing.id)?;
            let log = side.dir().join(format!("{}.log", writing.name));
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(Error::new(format!(
                "{}: writes failed: {}",
                side.name,
                said.trim()
            )));
        }
        self.expect(&writing.places, &writing.data);
        Ok(())
    }

    /// The device has to contain this from now on.
    pub(in crate::interop) fn expect(&mut self, places: &[(u64, u64)], data: &[Vec<u8>]) {
        for ((offset, _), bytes) in places.iter().zip(data) {
            let at = usize::try_from(*offset).unwrap_or(usize::MAX);
            if let Some(place) = self.model.get_mut(at..at.saturating_add(bytes.len())) {
                place.copy_from_slice(bytes);
            }
        }
    }

    /// The device has to contain zeroes there.
    pub(in crate::interop) fn expect_zeroes(&mut self, offset: u64, len: u64) {
        let zeroes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.expect(&[(offset, len)], &[zeroes]);
    }

    /// Reads the whole device through a node and compares.
    pub(in crate::interop) fn check_device(&self, id: u8) -> Result<()> {
        let side = self.side(id)?;
        let (device, out) = (side.device(), side.shared("whole"));
        side.sh(&format!(
            "dd if={device} of={out} bs=1M iflag=direct status=none"
        ))?;
        let file = side.dir().join("whole");
        let result = self.same(&format!("the device of {}", side.name), &file);
        let _ = std::fs::remove_file(file);
        result
    }

    /// Compares the disks of nodes with what has to be there. Nobody may write meanwhile.
    pub(in crate::interop) fn check_disks(&self, ids: &[u8]) -> Result<()> {
        for id in ids {
            let side = self.side(*id)?;
            if !self.options.diskless.contains(id) {
                self.same(&format!("the disk of {}", side.name), side.disk())?;
            }
        }
        Ok(())
    }

    fn same(&self, what: &str, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).context(file.display())?;
        let len = self.model.len();
        if len == 0 {
            return Err(Error::new("nothing was written yet"));
        }
        let there = bytes.get(..len).context(format!("{what} is too small"))?;
        let step = usize::try_from(BLOCK).unwrap_or(4096);
        let different: Vec<usize> = there
            .chunks(step)
            .zip(self.model.chunks(step))
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(i, _)| i)
            .collect();
        if different.is_empty() {
            return Ok(());
        }
        let first = different.iter().take(8).collect::<Vec<_>>();
        Err(Error::new(format!(
            "{what} differs from what was written in {} blocks of 4 KiB: {first:?}",
            different.len()
        )))
    }
}
