use super::{Args, InitBitmap, parse, parse_c_number, parse_nodes, parse_size};
use crate::meta::failure::Failure;
use crate::meta::record::Version;
use drbd_meta::geometry::MdIndex;

fn run(line: &str) -> Result<Args, Failure> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse(&words)
}

fn code(line: &str) -> (u8, String) {
    let failure = run(line).unwrap_err();
    (failure.code(), failure.to_string())
}

#[test]
fn options_anywhere() {
    let args =
        run("--forc 5 -vv v09 -s2 /dev/x internal create-md 7 -z 64 --initialize-bitmap=skip")
            .unwrap();
    assert!(args.force && !args.dry_run);
    assert_eq!(
        (args.verbose, args.al_stripes, args.al_stripe_size_4k),
        (2, Some(2), Some(16))
    );
    assert_eq!(
        (args.device.as_str(), args.meta_dev.as_str()),
        ("5", "/dev/x")
    );
    assert_eq!((args.format, args.index), (Version::V09, MdIndex::Internal));
    assert_eq!(args.init_bitmap, InitBitmap::Skip);
    assert_eq!(args.rest, ["7"]);
    assert_eq!(
        run("-i 3 - v09 X 0x11 get-gi").unwrap().index,
        MdIndex::Indexed(17)
    );
}

#[test]
fn refusals() {
    for (line, exit, text) in [
        ("", 20, ""),
        ("- v09", 20, ""),
        (
            "--bogus - v09 F internal dump-md",
            20,
            "drbdmeta: unrecognized option '--bogus'",
        ),
        (
            "--d - v09 F internal dump-md",
            20,
            "drbdmeta: option '--d' is ambiguous",
        ),
        ("- v09 F", 20, "Too few arguments for format"),
        ("- v10 F internal dump-md", 20, "Unknown format 'v10'."),
        (
            "- v09 F 300 dump-md",
            20,
            "'300' is not a valid index number.",
        ),
        ("- v09 F internal", 20, "command missing"),
        ("- v09 F internal foo", 20, "Unknown command 'foo'."),
        (
            "- v09 F internal get-gi",
            10,
            "The get-gi command requires the --node-id option",
        ),
        (
            "-i 1 - v09 F internal dump-md",
            10,
            "The dump-md command does not accept the --node-id option",
        ),
        (
            "-i 40 - v09 F internal get-gi",
            10,
            "node-id out of range (0...31)",
        ),
        (
            "-s x - v09 F internal create-md 1",
            20,
            "x is not a valid number",
        ),
        (
            "-s 0 - v09 F internal create-md 1",
            10,
            "invalid (too small) al-stripe* settings",
        ),
        (
            "-z 64M - v09 F internal create-md 1",
            10,
            "invalid (too large) al-stripe* settings",
        ),
        (
            "-s 2 - v09 F internal dump-md",
            10,
            "The --al-stripe* options are only allowed with create-md and restore-md",
        ),
        (
            "-B 64k - v08 F internal create-md",
            10,
            "bitmap-block-size not supported with 'v08'",
        ),
        (
            "-B 64k - v09 F 0 create-md 1",
            10,
            "bitmap-block-size not supported with a numeric index",
        ),
    ] {
        assert_eq!(code(line), (exit, text.to_owned()), "{line}");
    }
}

#[test]
fn numbers() {
    assert_eq!(parse_size("7", 1024).unwrap(), 7);
    assert_eq!(parse_size("1s", 1024).unwrap(), 1);
    assert_eq!(parse_size("64k", 1024).unwrap(), 64);
    assert_eq!(parse_size("1G", 512).unwrap(), 1 << 21);
    for bad in [
        "",
        "k",
        "-1",
        "1q",
        "99999999999999999999",
        "99999999999999G",
    ] {
        assert_eq!(parse_size(bad, 1).unwrap_err().code(), 20, "{bad}");
    }
    assert_eq!(parse_c_number("010"), Some(8));
    assert_eq!(parse_c_number("0x1F"), Some(31));
    assert_eq!(parse_c_number("0"), Some(0));
    assert_eq!(
        (
            parse_c_number("+1"),
            parse_c_number("0x"),
            parse_c_number("09")
        ),
        (None, None, None)
    );
    assert_eq!(parse_nodes("0x15").unwrap(), 0x15);
    assert_eq!(parse_nodes("0,2,4").unwrap(), 0x15);
    assert!(parse_nodes("32").is_err() && parse_nodes("").is_err());
}
