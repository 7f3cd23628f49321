//! What the end-to-end tests share.
#![allow(dead_code, unreachable_pub)] // Each test program uses some of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use drbd_testkit::rng::{Rng, hash};
use drbd_testkit::{Cluster, Context, Node, Options, Result, Story, binaries, story};

/// How long a step may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Options of a small cluster; says once how nodes live here.
pub fn small() -> Options {
    static SAID: Once = Once::new();
    SAID.call_once(|| match story() {
        Ok((Story::BlockDevice, _)) => {
            eprintln!("end to end: nodes in name spaces, volumes as block devices");
        }
        Ok((Story::Nbd, why)) => eprintln!(
            "end to end: nodes on the loopback network, volumes over NBD; NOT in name spaces and NOT \
             with block devices: {}",
            why.unwrap_or_default()
        ),
        Err(error) => eprintln!("end to end: {error}"),
    });
    Options::small().expect("options")
}

/// Words that no daemon's log may have: the first three are what administrators look for to find bugs.
pub const ALARMING: [&str; 4] = ["BUG:", "INFO:", "ASSERT", "panicked"];

/// Runs a test and adds the logs of the nodes to its error. No log may have an alarming word in it.
pub fn told(mut cluster: Cluster, test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let test = std::panic::AssertUnwindSafe(|| {
        test(&mut cluster)?;
        for log in cluster.nodes.iter().map(Node::whole_log) {
            let mut lines = log.lines();
            let found = lines.find(|line| ALARMING.iter().any(|word| line.contains(word)));
            assert_eq!(found, None);
        }
        Ok(())
    });
    let result = std::panic::catch_unwind(test);
    if !matches!(result, Ok(Ok(()))) {
        eprintln!("{}", cluster.logs(40));
    }
    match result {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Hash of a whole file: to see that nothing was written to it.
pub fn file_hash(path: &Path) -> u64 {
    hash(&std::fs::read(path).expect("read a disk"))
}

/// Another resource on the same daemon, which must not notice anything.
pub struct Bystander {
    disk: PathBuf,
    minor: u32,
    content: Vec<u8>,
}

pub const BYSTANDER: &str = "bystander";

impl Bystander {
    /// Makes it primary on a node, with known content.
    pub fn new(cluster: &Cluster, id: u8) -> Result<Bystander> {
        let node = cluster.node(id);
        let disk = cluster.disk_dir().join(format!("bystander-{id}.img"));
        std::fs::File::create(&disk)
            .and_then(|f| f.set_len(8 << 20))
            .context(disk.display())?;
        let minor = node.minor(0) + 8;
        let (text, number) = (disk.display().to_string(), minor.to_string());
        let mut create = Command::new(binaries::program("drbdmeta")?);
        create.args([
            &number,
            "v09",
            &text,
            "internal",
            "create-md",
            "1",
            "--force",
        ]);
        node.run(create, PATIENCE)?.ok()?;
        node.drbdsetup(&["new-resource", BYSTANDER, "0"])?.ok()?;
        node.drbdsetup(&["new-minor", BYSTANDER, &number, "0"])?
            .ok()?;
        node.drbdsetup(&["attach", &number, &text, &text, "internal"])?
            .ok()?;
        node.drbdsetup(&["primary", BYSTANDER, "--force"])?.ok()?;
        let mut content = vec![0; 256 << 10];
        Rng::new(u64::from(minor)).fill(&mut content);
        let mut volume = node.open_volume(BYSTANDER, 0)?;
        volume.write(1 << 20, &content)?;
        volume.flush()?;
        Ok(Bystander {
            disk,
            minor,
            content,
        })
    }

    /// It is still what and where it was, and can be written.
    pub fn check(&self, node: &Node) -> Result<()> {
        let mut volume = node.open_volume(BYSTANDER, 0)?;
        assert_eq!(
            volume.read(1 << 20, self.content.len())?,
            self.content,
            "bystander's data"
        );
        volume.write(4 << 20, &self.content)?;
        volume.flush()?;
        let role = node.drbdsetup(&["role", BYSTANDER])?.ok()?;
        assert_eq!(role.trim(), "Primary", "bystander's role");
        let state = node.drbdsetup(&["dstate", &self.minor.to_string()])?.ok()?;
        assert!(
            state.trim().starts_with("UpToDate"),
            "bystander's disk: {state}"
        );
        Ok(())
    }
}
