//! What result codes mean (CLI, section 10).

/// The text for a code of the configuration interface, 101 to 176.
pub(super) fn error(code: i32) -> Option<&'static str> {
    Some(match code {
        102 => "Local address(port) already in use.",
        103 => "Remote address(port) already in use.",
        104 => "Can not open backing device.",
        105 => "Can not open meta device.",
        107 => "Lower device is not a block device.",
        108 => "Meta device is not a block device.",
        111 => "Low.dev. smaller than requested DRBD-dev. size.",
        112 => "Meta device too small.",
        114 => "Lower device is already claimed. This usually means it is mounted.",
        115 => "Meta device is already claimed. This usually means it is mounted.",
        116 => "Lower device / meta device / index combination invalid.",
        118 => "IO error(s) occurred during initial access to meta-data.\n",
        119 => {
            "No valid meta-data signature found.\n\n\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n"
        }
        120 => {
            "The 'cram-hmac-alg' you specified is not known in the kernel. (Maybe you need to modprobe it, or modprobe hmac?)"
        }
        121 => "The 'cram-hmac-alg' you specified is not a digest.",
        122 => "kmalloc() failed. Out of memory?",
        123 => "--discard-my-data not allowed when primary.",
        124 => "Device is attached to a disk (use detach first)",
        125 => "Device has a net-config (use disconnect first)",
        126 => "UnknownMandatoryTag",
        127 => "Device minor not allocated",
        129 => "Interrupted by Signal",
        130 => "Resize not allowed during resync.",
        131 => "Need one Primary node to resize.",
        132 => "The resync-after minor number is invalid",
        133 => "This would cause a resync-after dependency cycle",
        134 => "Sync-pause flag is already set",
        135 => "Sync-pause flag is already cleared",
        137 => "Kernel does not know how to handle your request.\nMaybe API_VERSION mismatch?",
        138 => "Device does not have a disk-config",
        139 => "Protocol C required",
        140 => "vmalloc() failed. Out of memory?",
        141 => {
            "The 'data-integrity-alg' you specified is not known in the kernel. (Maybe you need to modprobe it, or modprobe hmac?)"
        }
        142 => "The 'data-integrity-alg' you specified is not a digest.",
        143 => "Invalid cpu-mask.",
        144 => "CSUMSAlgNotAvail",
        145 => "CSUMSAlgNotDigest",
        146 => "VERIFYAlgNotAvail",
        147 => "VERIFYAlgNotDigest",
        148 => "Can not change csums-alg while resync is in progress",
        149 => "Can not change verify-alg while online verify runs",
        150 => "Can only attach to the data we lost last (see kernel log).",
        151 => "Need to be StandAlone",
        152 => "Permission denied. CAP_SYS_ADMIN necessary",
        153 => "Protocol version 93 required to use --assume-clean",
        154 => "Fencing policy resource-and-stonith only with prot B or C allowed",
        155 => "on-congestion policy pull-ahead only with prot A allowed",
        156 => {
            "Sync-pause flag is already cleared.\nNote: Resync pause caused by a local resync-after dependency."
        }
        157 => "Sync-pause flag is already cleared.\nNote: Resync pause caused by the peer node.",
        158 => "Unknown resource",
        159 => "Resource still in use (delete all minors first)",
        160 => "Minor still configured (down it first)",
        161 => "Minor or volume exists already (delete it first)",
        162 => "Invalid configuration request",
        163 => {
            "Prot version 100 required in order to change\nthese network options while connected"
        }
        164 => "Can not clear allow_two_primaries as long as\nthere a primaries on both sides",
        165 => "Unclean meta-data found.\nYou need to 'drbdadm apply-al res'\n",
        166 => "DRBD need to be connected for online MD layout change",
        167 => "Resulting AL area too big",
        168 => "Resulting AL are too small",
        169 => "Resulting AL does not fit into available meta data space",
        170 => "Implicit device shrinking not allowed. See kernel log.",
        171 => "Invalid peer-node-id",
        172 => "Failed to create transport (drbd_transport_xxx module missing?)",
        173 => "Combination of local address(port) and remote address(port) already in use",
        174 => "Already exists",
        175 => "A higher DRBD protocol level is required for this operation",
        176 => "Path collides with existing path",
        _ => return None,
    })
}

/// The text for a failed state change, -1 to -28.
pub(super) fn state_change(code: i32) -> Option<&'static str> {
    Some(match code {
        0 => "unknown error.",
        -1 => "Multiple primaries not allowed by config",
        -2 => "Need access to UpToDate data",
        -4 => "Can not resync without local disk",
        -5 => "Can not resync without remote disk",
        -6 => "Refusing to be Outdated while Connected",
        -7 => "Refusing to be Primary while peer is not outdated",
        -8 => "Can not start OV/resync since it is already active",
        -9 => "Can not disconnect a StandAlone device",
        -10 => "State change was refused by peer node",
        -11 => "Device is diskless, the requested operation requires a disk",
        -12 => "Device is held open by someone",
        -13 => "Have no net/connection configuration",
        -14 => "Need a verify algorithm to start online verify",
        -15 => "State change requires a connection",
        -16 => "Disk state is lower than outdated",
        -17 => "Peer does not support protocol",
        -18 => "In transient state, retry after next state change",
        -19 => "Concurrent state changes detected and aborted",
        -20 => "Other vol primary on peer not allowed by config",
        -21 => "Interrupted state change",
        -22 => "Peer may not become primary while device is opened read-only",
        -23 => "Timeout in operation",
        -24 => "Primary nodes must be strongly connected among each other",
        -25 => "No quorum",
        -26 => "Intentional diskless peer may not attach a disk",
        -27 => "Disconnect chosen in handshake",
        -28 => "Retry chosen in handshake",
        _ => return None,
    })
}

/// Text for stderr and exit code of a result. `object` is what the command was about.
pub(super) fn outcome(command: &str, object: &str, code: i32, info: &[String]) -> (String, u8) {
    let (mut text, exit) = match code {
        1 | 101 => {
            let mut text = String::new();
            if !info.is_empty() {
                text.push_str("warnings from kernel:\n");
            }
            (text, 0)
        }
        2..=4 => return (String::new(), 0),
        158 if command == "down" => return (String::new(), 0),
        _ => match (error(code), state_change(code)) {
            (Some(meaning), _) => (format!("{object}: Failure: ({code}) {meaning}\n"), 10),
            (None, Some(meaning)) => {
                let exit = match code {
                    -16 => 5,
                    -4 => 16,
                    -2 => 17,
                    _ => 11,
                };
                let blank = if code == 0 { "" } else { " " };
                (
                    format!("{object}: State change failed: ({code}){blank}{meaning}\n"),
                    exit,
                )
            }
            (None, None) => {
                let text = format!(
                    "{object}: Error code {code} unknown.\nYou should update the drbd userland tools.\n"
                );
                (text, 20)
            }
        },
    };
    if exit != 0 && !info.is_empty() {
        text.push_str("additional info from kernel:\n");
    }
    for line in info {
        text.push_str(line);
        text.push('\n');
    }
    (text, exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        for (command, code, exit) in [
            ("primary", 101, 0),
            ("primary", 1, 0),
            ("secondary", 2, 0),
            ("down", 158, 0),
            ("primary", 158, 10),
            ("attach", 119, 10),
            ("outdate", -16, 5),
            ("invalidate", -4, 16),
            ("primary", -2, 17),
            ("primary", -1, 11),
            ("primary", 0, 11),
            ("primary", -99, 20),
            ("primary", 999, 20),
        ] {
            assert_eq!(
                outcome(command, "r0", code, &[]).1,
                exit,
                "{command} {code}"
            );
        }
    }

    #[test]
    fn texts() {
        let info = ["unknown resource".to_owned()];
        assert_eq!(
            outcome("primary", "r0", 158, &info).0,
            "r0: Failure: (158) Unknown resource\nadditional info from kernel:\nunknown resource\n"
        );
        assert_eq!(
            outcome("primary", "r0", -2, &[]).0,
            "r0: State change failed: (-2) Need access to UpToDate data\n"
        );
        assert_eq!(outcome("primary", "r0", 101, &[]).0, "");
        assert_eq!(
            outcome("primary", "r0", 101, &info).0,
            "warnings from kernel:\nunknown resource\n"
        );
        assert_eq!(outcome("primary", "r0", 3, &info).0, "");
    }
}
