//! Meta data on a file.

use std::process::Command;

use super::drbdadm;

/// A device gets a number when it gets meta data, and keeps it when that is made anew.
#[test]
fn create_md_numbers_the_device() {
    const MINOR: &str = "1048571";
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let conf = dir.path().join("drbd.conf");
    let text = format!(
        "resource r0 {{ device minor {MINOR}; disk {};
         on alpha {{ node-id 0; address 10.0.0.1:7000; }}
         on bravo {{ node-id 1; address 10.0.0.2:7000; }} }}",
        disk.display()
    );
    std::fs::write(&conf, text).unwrap();
    let conf = conf.to_str().unwrap();
    let uuid = || {
        let output = Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
            .args(["--force", "-", "v09", disk.to_str().unwrap(), "internal"])
            .arg("read-dev-uuid")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let dry = drbdadm("alpha", &["-d", "-c", conf, "create-md", "r0"], &[]);
    assert_eq!(dry.stdout.len(), 1, "{dry:?}");
    let meta = env!("CARGO_BIN_EXE_drbdmeta");
    let create = ["-m", meta, "-c", conf, "--", "--force", "create-md", "r0"];
    let made = drbdadm("alpha", &create, &[]);
    if made
        .stderr
        .iter()
        .any(|line| line.contains("Permission denied"))
    {
        eprintln!("*** NOT TESTED: no lock file can be made, which needs root ***");
        return;
    }
    assert_eq!(made.exit, 0, "{made:?}");
    let first = uuid();
    assert_eq!(first.len(), 17, "{first}");
    assert_ne!(first, "0000000000000000\n");
    assert_eq!(drbdadm("alpha", &create, &[]).exit, 0);
    assert_eq!(uuid(), first);
    for file in ["/var/lock/drbd-147-", "/run/drbd/lock/drbd-147-"] {
        let _ = std::fs::remove_file(format!("{file}{MINOR}"));
    }
    let _ = std::fs::remove_file(format!("/var/lib/drbd/drbd-minor-{MINOR}.lkbd"));
}
