//! Options, selectors, and the environment of handlers.

use std::path::Path;

use super::{data, drbdadm};

#[test]
fn general_options() {
    let conf = data("commands/commands.conf");
    let conf = conf.to_str().unwrap();
    let version = drbdadm("alpha", &["--version"], &[]);
    assert_eq!(version.exit, 0);
    for key in [
        "DRBDADM_BUILDTAG=",
        "DRBDADM_API_VERSION=2",
        "DRBD_KERNEL_VERSION_CODE=0x09020e",
        "DRBD_KERNEL_VERSION=9.2.14",
        "DRBDADM_VERSION_CODE=0x092200",
        "DRBDADM_VERSION=9.34.0",
    ] {
        assert!(
            version.stdout.iter().any(|l| l.starts_with(key)),
            "{key} in {version:?}"
        );
    }
    // The idiom of configuration managers.
    let args = ["-c", conf, "--config-to-test", conf, "sh-nop"];
    assert_eq!(drbdadm("alpha", &args, &[]).exit, 10);
    let low = data("valid/28-not-my-resource.conf");
    let args = ["-c", low.to_str().unwrap(), "-E", conf, "sh-nop"];
    assert_eq!(drbdadm("alpha", &args, &[]).exit, 0);
    assert_eq!(
        drbdadm("alpha", &["-c", conf, "-t", conf, "up", "r0"], &[]).exit,
        1
    );
    // Prefixes of long options, letters together, values in the next word.
    let args = [
        "-dc",
        conf,
        "new-resource",
        "--on-no-data",
        "suspend-io",
        "thin",
    ];
    let output = drbdadm("alpha", &args, &[]);
    assert_eq!(
        output.stdout,
        ["drbdsetup new-resource thin 0 --on-no-data-accessible=suspend-io"]
    );
    let output = drbdadm(
        "alpha",
        &["-d", "-c", conf, "-n", "name", "role", "r0"],
        &[],
    );
    assert_eq!(output.stdout, ["name=r0", "drbdsetup role r0"]);
    assert_eq!(drbdadm("alpha", &["help"], &[]).exit, 1);
    assert_eq!(drbdadm("alpha", &["help", "up"], &[]).exit, 0);
    assert_eq!(drbdadm("alpha", &[], &[]).exit, 1);
    let hidden = drbdadm("alpha", &["hidden-commands"], &[]);
    assert!(hidden.stdout.iter().any(|l| l.contains("split-brain")));
    assert_eq!(
        drbdadm("alpha", &["-c", "/nowhere/x.conf", "sh-nop"], &[]).exit,
        20
    );
    assert_eq!(drbdadm("alpha", &["-c", "/", "sh-nop"], &[]).exit, 20);
}

#[test]
fn selectors_that_select_nothing() {
    let conf = data("commands/commands.conf");
    let conf = conf.to_str().unwrap();
    for (args, message, exit) in [
        (
            vec!["up", "all"],
            "WARN: no normal resources defined for this host (nobody)!?",
            1,
        ),
        (
            vec!["-S", "up", "all"],
            "WARN: nothing stacked for this host (nobody)",
            1,
        ),
        (
            vec!["up", "r0"],
            "'r0' not defined in your config (for this host).",
            1,
        ),
    ] {
        let mut all = vec!["-d", "-c", conf];
        all.extend(args);
        let output = drbdadm("nobody", &all, &[]);
        assert_eq!(output.exit, exit);
        assert!(
            output.stderr.iter().any(|l| l.starts_with(message)),
            "{output:?}"
        );
    }
    let output = drbdadm("alpha", &["-d", "-c", conf, "connect", "r0:alpha"], &[]);
    assert_eq!(output.exit, 1);
    assert_eq!(
        output.stderr,
        ["Host name 'alpha' (from 'r0:alpha') is not a peer, but the local node"]
    );
}

#[test]
fn handlers_get_their_environment() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("h.conf");
    let text = std::fs::read_to_string(data("commands/commands.conf")).unwrap();
    let text = text.replace("\"exit 3\"", "\"env | grep ^DRBD_ | sort; exit 4\"");
    std::fs::write(&conf, text).unwrap();
    let args = ["-c", conf.to_str().unwrap(), "split-brain", "r0"];
    let stale = Path::new("old");
    let output = drbdadm(
        "alpha",
        &args,
        &[("DRBD_NODE_ID_7", stale), ("DRBD_CSTATE", stale)],
    );
    assert_eq!(output.exit, 4, "{output:?}");
    let real = std::fs::canonicalize(&conf).unwrap();
    let conf_line = format!("DRBD_CONF={}", real.display());
    for line in [
        &*conf_line,
        "DRBD_CSTATE=old",
        "DRBD_LL_DISK=/dev/vg0/r0 /dev/vg0/r0b",
        "DRBD_MINOR=1 2",
        "DRBD_MY_NODE_ID=0",
        "DRBD_NODE_ID_0=alpha",
        "DRBD_NODE_ID_2=charlie",
        "DRBD_RESOURCE=r0",
        "DRBD_VOLUME=0 1",
    ] {
        assert!(
            output.stdout.iter().any(|l| l == line),
            "{line} in {output:?}"
        );
    }
    assert!(
        !output.stdout.iter().any(|l| l.contains("NODE_ID_7")),
        "{output:?}"
    );
}
