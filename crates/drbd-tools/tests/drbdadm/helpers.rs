//! How `drbdsetup` and `drbdmeta` are run, and what their failures lead to.

use std::process::{Command, Stdio};

use super::{Output, data, drbdadm};

/// Helpers that note how they were called and do what a file beside them says.
struct Fakes(tempfile::TempDir);

impl Fakes {
    fn new(exit_codes: &[(&str, i32)]) -> Fakes {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let cases: String = exit_codes
            .iter()
            .map(|(pattern, code)| format!("  *\"{pattern}\"*) exit {code};;\n"))
            .collect();
        for name in ["drbdsetup", "drbdmeta"] {
            let path = dir.path().join(name);
            let log = dir.path().join("log");
            let script = format!(
                "#!/bin/sh\nline=\"{name} $*\"\necho \"$line\" >> {}\ncase \"$line\" in\n{cases}esac\nexit 0\n",
                log.display()
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Fakes(dir)
    }

    fn run(&self, args: &[&str]) -> (Output, Vec<String>) {
        let place = |name: &str| self.0.path().join(name).display().to_string();
        let (setup, meta) = (place("drbdsetup"), place("drbdmeta"));
        let conf = data("commands/commands.conf").display().to_string();
        let mut all = vec!["-c", &conf, "-s", &setup, "-m", &meta];
        all.extend(args);
        let output = drbdadm("alpha", &all, &[]);
        let log = std::fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        (output, log.lines().map(str::to_owned).collect())
    }
}

#[test]
fn commands_are_run_in_order() {
    let (output, log) = Fakes::new(&[]).run(&["up", "low"]);
    assert_eq!(output.exit, 0, "{output:?}");
    assert_eq!(
        log,
        [
            "drbdsetup new-resource low 0",
            "drbdsetup new-minor low 5 0",
            "drbdsetup new-peer low 1 --_name=bravo",
            "drbdsetup new-path low 1 ipv4:10.1.1.31:7003 ipv4:10.1.1.32:7003",
            "drbdmeta 5 v09 /dev/vg0/low internal repair-md",
            "drbdmeta 5 v09 /dev/vg0/low internal apply-al",
            "drbdsetup attach 5 /dev/vg0/low /dev/vg0/low internal",
            "drbdsetup connect low 1",
        ]
    );
}

#[test]
fn a_resource_that_fails_is_left_alone_and_the_run_ends() {
    let (output, log) = Fakes::new(&[("new-minor r0 1", 10)]).run(&["up", "r0", "low"]);
    assert_eq!(output.exit, 1, "{output:?}");
    // The stage is finished for the other resource, then nothing follows.
    assert!(
        log.contains(&"drbdsetup new-minor low 5 0".to_owned()),
        "{log:?}"
    );
    assert!(!log.iter().any(|l| l.contains("new-minor r0 2")), "{log:?}");
    assert!(!log.iter().any(|l| l.contains("new-peer")), "{log:?}");
    assert!(
        output
            .stderr
            .iter()
            .any(|l| l.contains("terminated with exit code 10"))
    );
    assert!(
        output
            .stderr
            .iter()
            .any(|l| l == "drbdadm: new-minor r0: skipped due to earlier error")
    );
}

#[test]
fn exit_codes_and_fallbacks() {
    let (output, _) = Fakes::new(&[("primary", 17)]).run(&["primary", "r0"]);
    assert_eq!(output.exit, 17);
    // The device is not there: the meta data is asked.
    let (output, log) = Fakes::new(&[("dstate 1", 10)]).run(&["dstate", "r0/0"]);
    assert_eq!(output.exit, 0);
    assert_eq!(
        log,
        [
            "drbdsetup dstate 1",
            "drbdmeta 1 v09 /dev/vg0/r0 internal dstate"
        ],
    );
    // A refusal is final.
    let (output, log) = Fakes::new(&[("invalidate 1", 11)]).run(&["invalidate", "r0/0"]);
    assert_eq!((output.exit, log.len()), (11, 1), "{output:?}");
    // Volumes after the first failure are not tried.
    let (output, log) = Fakes::new(&[("detach 1", 11)]).run(&["detach", "r0"]);
    assert_eq!((output.exit, log.len()), (11, 1), "{output:?}");
    // 20 ends everything.
    let (output, log) = Fakes::new(&[("down r0", 20)]).run(&["down", "all"]);
    assert_eq!((output.exit, log.len()), (20, 1), "{output:?}");
    let (output, log) = Fakes::new(&[("down r0", 11)]).run(&["down", "all"]);
    assert_eq!((output.exit, log.len()), (11, 3), "{output:?}");
}

#[test]
fn a_helper_that_hangs_is_stopped() {
    let fakes = Fakes::new(&[]);
    std::fs::write(
        fakes.0.path().join("drbdsetup"),
        "#!/bin/sh\nexec sleep 60\n",
    )
    .unwrap();
    let conf = fakes.0.path().join("x.conf");
    let text = std::fs::read_to_string(data("commands/commands.conf")).unwrap();
    let text = text.replace(
        "disable-ip-verification;",
        "disable-ip-verification; cmd-timeout-short 1;",
    );
    std::fs::write(&conf, text).unwrap();
    let start = std::time::Instant::now();
    let (output, _) = fakes.run(&["-c", conf.to_str().unwrap(), "role", "r0"]);
    assert_eq!(output.exit, 20, "{output:?}");
    assert!(start.elapsed().as_secs() < 20);
    assert!(
        output
            .stderr
            .iter()
            .any(|l| l.contains("did not terminate within 1 seconds"))
    );
}

#[test]
fn helpers_are_those_beside_the_program() {
    let fakes = Fakes::new(&[]);
    let program = fakes.0.path().join("drbdadm");
    std::fs::copy(env!("CARGO_BIN_EXE_drbdadm"), &program).unwrap();
    let output = Command::new(&program)
        .args([
            "-c",
            data("commands/commands.conf").to_str().unwrap(),
            "role",
            "r0",
        ])
        .env("__DRBD_NODE__", "alpha")
        .env("PATH", "/nowhere")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = std::fs::read_to_string(fakes.0.path().join("log")).unwrap();
    assert_eq!(log, "drbdsetup role r0\n");
    // Dry runs show where they are if the program was called that way.
    let output = Command::new(&program)
        .args([
            "-d",
            "-c",
            data("commands/commands.conf").to_str().unwrap(),
            "role",
            "r0",
        ])
        .env("__DRBD_NODE__", "alpha")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        shown,
        format!("{}/drbdsetup role r0\n", fakes.0.path().display())
    );
}
