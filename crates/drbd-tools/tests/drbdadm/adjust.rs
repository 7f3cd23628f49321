//! `adjust` beyond what was recorded.

use super::{data, drbdadm};

/// Two links that must be interrupted: the second one only when the first is back.
#[test]
fn adjust_interrupts_one_link_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let show = dir.path().join("show");
    let text = std::fs::read_to_string(data("adjust/same.show")).unwrap();
    let text = text
        .replace("_cstate Connecting", "_cstate Connected")
        .replace("_remote_host ipv4 10.1.1.", "_remote_host ipv4 10.1.2.");
    std::fs::write(&show, text).unwrap();
    let conf = data("adjust/adjust.conf");
    let args = ["-d", "-c", conf.to_str().unwrap(), "adjust", "r0"];
    let output = drbdadm("alpha", &args, &[("FAKE_DRBDSETUP_SHOW", &show)]);
    assert_eq!(
        output.stdout,
        [
            "drbdsetup disconnect r0 1",
            "drbdsetup del-path r0 1 ipv4:10.1.1.31:7000 ipv4:10.1.2.32:7000",
            "drbdsetup new-path r0 1 ipv4:10.1.1.31:7000 ipv4:10.1.1.32:7000",
            "drbdsetup connect r0 1",
            "drbdsetup wait-connect-connection r0 1 --wfc-timeout 1 --degr-wfc-timeout 1 --outdated-wfc-timeout 1",
            "drbdsetup disconnect r0 2",
            "drbdsetup del-path r0 2 ipv4:10.1.1.31:7000 ipv4:10.1.2.33:7000",
            "drbdsetup new-path r0 2 ipv4:10.1.1.31:7000 ipv4:10.1.1.33:7000",
            "drbdsetup connect r0 2",
        ]
    );
}

/// What a newer node reports as unknown is not sent to it.
#[test]
fn adjust_leaves_out_what_the_node_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let show = dir.path().join("show");
    let text = std::fs::read_to_string(data("adjust/net-option.show")).unwrap();
    let text = text.replacen(
        "        net {\n",
        "        net {\n            _unknown verify-alg;\n",
        1,
    );
    let text = text.replacen("            verify-alg      \t\"crc32c\";\n", "", 1);
    std::fs::write(&show, text).unwrap();
    let conf = data("adjust/adjust.conf");
    let args = ["-d", "-c", conf.to_str().unwrap(), "adjust", "r0"];
    let output = drbdadm("alpha", &args, &[("FAKE_DRBDSETUP_SHOW", &show)]);
    assert_eq!(
        output.stdout,
        ["drbdsetup net-options r0 1 --set-defaults --_name=bravo --max-buffers=4000"],
        "{output:?}"
    );
}
