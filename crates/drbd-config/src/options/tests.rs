use std::collections::HashSet;

use super::*;

const GROUPS: &[Group] = &[
    Group::Resource,
    Group::Net,
    Group::Disk,
    Group::PeerDevice,
    Group::Device,
    Group::Startup,
    Group::Handlers,
    Group::Proxy,
];

fn number(group: Group, name: &str, text: &str) -> Result<i64, ValueError> {
    let def = group
        .find(name)
        .unwrap_or_else(|| panic!("no option {name}"));
    def.parse(text).map(|v| v.as_number().unwrap())
}

#[test]
fn names_are_unique_in_a_group() {
    for group in GROUPS {
        let mut names = HashSet::new();
        assert!(
            group
                .options()
                .iter()
                .all(|o| o.group == *group && names.insert(o.name))
        );
    }
}

#[test]
fn defaults_are_valid_values() {
    for def in GROUPS.iter().flat_map(|g| g.options()) {
        // Unset is a value of its own here, beyond the range.
        if def.name == "discard-granularity" {
            continue;
        }
        if let Some(text) = def.default_text() {
            assert_eq!(def.parse(&text), Ok(def.default_value()), "{}", def.name);
            assert!(def.is_default(&text), "{}", def.name);
        }
    }
}

/// The examples of "Configuration language", section 5.3.
#[test]
fn units() {
    assert_eq!(number(Group::PeerDevice, "c-max-rate", "1G"), Ok(1_048_576));
    assert_eq!(number(Group::PeerDevice, "c-fill-target", "1M"), Ok(2048));
    assert_eq!(
        number(Group::PeerDevice, "resync-rate", "40960"),
        Ok(40_960)
    );
    assert_eq!(number(Group::Resource, "peer-ack-window", "8M"), Ok(16_384));
    assert_eq!(number(Group::Disk, "size", "1024"), Ok(1024));
    assert_eq!(number(Group::Disk, "size", "1024K"), Ok(2048));
    assert_eq!(number(Group::PeerDevice, "c-min-rate", "4096s"), Ok(2048));
    assert_eq!(number(Group::Net, "sndbuf-size", "2048s"), Ok(1_048_576));
    assert_eq!(number(Group::Resource, "max-io-depth", "16k"), Ok(16_384));
    // Rounded up: three sectors are one and a half KiB.
    assert_eq!(number(Group::PeerDevice, "resync-rate", "3s"), Ok(2));
}

#[test]
fn ranges() {
    let too_big = |r: Result<i64, ValueError>| matches!(r, Err(ValueError::TooBig(_)));
    assert!(matches!(
        number(Group::Net, "timeout", "0"),
        Err(ValueError::TooSmall(_))
    ));
    assert!(too_big(number(Group::Net, "ping-int", "121")));
    assert!(too_big(number(Group::Net, "ping-timeout", "1K")));
    assert!(too_big(number(Group::Net, "ko-count", "-1")));
    assert!(too_big(number(
        Group::Disk,
        "size",
        "99999999999999999999999G"
    )));
    assert!(too_big(number(Group::Disk, "size", "17179869184G")));
    assert_eq!(number(Group::Disk, "al-extents", "66"), Ok(67));
    assert_eq!(number(Group::Disk, "al-extents", "70000"), Ok(65_534));
    for text in [
        "6x", "ten", "2T", "0x10", "", "K", "1 ", "+1", "1kk", "--1", "1.5",
    ] {
        assert_eq!(
            number(Group::Net, "timeout", text),
            Err(ValueError::NotANumber),
            "{text}"
        );
    }
}

#[test]
fn words_and_texts() {
    let find = |g: Group, n| g.find(n).unwrap();
    let protocol = find(Group::Net, "protocol");
    assert_eq!(protocol.parse("b"), Ok(OptionValue::Word(1, "B")));
    assert!(matches!(protocol.parse("D"), Err(ValueError::NotValid(_))));
    let quorum = find(Group::Resource, "quorum");
    assert_eq!(
        quorum.parse("majority"),
        Ok(OptionValue::Word(1, "majority"))
    );
    assert_eq!(quorum.parse("3"), Ok(OptionValue::Number(3)));
    assert!(matches!(quorum.parse("33"), Err(ValueError::TooBig(_))));
    assert!(matches!(quorum.parse("most"), Err(ValueError::NotValid(_))));
    let secret = find(Group::Net, "shared-secret");
    assert!(secret.parse(&"x".repeat(63)).is_ok());
    assert_eq!(secret.parse(&"x".repeat(64)), Err(ValueError::TooLong(63)));
    let after = find(Group::Disk, "resync-after");
    assert_eq!(after.parse("-1"), Ok(OptionValue::Number(-1)));
    assert_eq!(after.parse("r1/0"), Ok(OptionValue::Text("r1/0".into())));
    assert!(find(Group::PeerDevice, "c-max-rate").same("1M", "1024k"));
    assert_eq!(
        find(Group::PeerDevice, "c-max-rate").show(&OptionValue::Number(7)),
        "7k"
    );
}

#[test]
fn commands_take_what_can_change() {
    let names = |c: &str| -> Vec<_> { command(c).unwrap().options().map(|o| o.name).collect() };
    assert!(names("new-peer").contains(&"transport"));
    assert!(!names("net-options").contains(&"transport"));
    assert!(names("attach").contains(&"size"));
    assert!(!names("disk-options").contains(&"size"));
    assert_eq!(names("primary"), ["force"]);
    assert!(command("net-options").unwrap().has_set_defaults());
    assert!(command("nonsense").is_none());
}
