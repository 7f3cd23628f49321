use super::lexer::Token;
use super::{BitmapSink, Nowhere, Parser};
use crate::meta::failure::Failure;
use crate::meta::record::Version;
use proptest::prelude::*;

const V08: &str = "version \"v08\"; uuid { 0x0000000000000001; 0x0000000000000002;
    0x0000000000000003; 0x0000000000000004; flags 0x00000080; } # comment ; }
    la-size-sect 100; bm-byte-per-bit 4096; device-uuid 0x0000000000000005;
    la-peer-max-bio-size 7; al-stripes 1; al-stripe-size-4k 8;
    bm { 0x0123456789ABCDEF; 3 times 0x1111111122222222; 4 times 0x0000000000000000; }";

#[derive(Default)]
struct Collect(Vec<(u8, u32, u64)>);

impl BitmapSink for Collect {
    fn words(&mut self, slot: u8, value: u32, count: u64) -> Result<bool, Failure> {
        self.0.push((slot, value, count));
        Ok(true)
    }
    fn end(&mut self, _: u8) -> Result<(), Failure> {
        Ok(())
    }
}

fn verify(text: &str, format: Version) -> Result<Vec<(u8, u32, u64)>, String> {
    let mut parser = Parser::new(text.as_bytes());
    let mut sink = Collect::default();
    let header = parser.header(format).map_err(|e| e.to_string())?;
    parser
        .bitmaps(format, header.max_peers, &mut sink)
        .map_err(|e| e.to_string())?;
    Ok(sink.0)
}

#[test]
fn words_of_a_bitmap() {
    let words = verify(V08, Version::V08).unwrap();
    assert_eq!(words[..2], [(0, 0x89AB_CDEF, 1), (0, 0x0123_4567, 1)]);
    assert_eq!(words[2..4], [(0, 0x2222_2222, 1), (0, 0x1111_1111, 1)]);
    assert_eq!(words.len(), 9);
    assert_eq!(words[8], (0, 0, 8));
}

#[test]
fn errors_name_line_and_token() {
    // What is replaced by what, the message, and the place that follows it.
    for (from, to, message, column) in [
        ("v08", "v09", "dump is 'v09' you requested 'v08'.", 9),
        (
            "uuid {",
            "uuid ;",
            "Parse error in line 1: opening brace ({) expected, not ';'",
            21,
        ),
        (
            "uuid",
            "uid",
            "line 1: unknown token: uid ...\nParse error in line 1: keyword 'uuid' expected",
            16,
        ),
        (
            "0x00000080",
            "12",
            "Parse error in line 2: an 8-digit hex number expected, not some number",
            51,
        ),
        (
            "0x00000080",
            "0x80",
            "line 2: invalid hex number (only 8 or 16 hex digits accepted): 0x80 ...\n\
             Parse error in line 2: an 8-digit hex number expected",
            51,
        ),
        (
            "0x00000080",
            "0x8g",
            "line 2: unknown token: 0x8g ...\n\
             Parse error in line 2: an 8-digit hex number expected",
            51,
        ),
        (
            "100",
            "-100",
            "Parse error in line 3: la-size-sect out of range",
            22,
        ),
        (
            "4096",
            "4095",
            "Invalid value for bm-byte-per-bit: value must be a power-of-two in [4k .. 1M]",
            43,
        ),
        (
            "100",
            "99999999999999999999",
            "line 3: number too big: 99999999999999999999 ...\n\
             Parse error in line 3: number ([0-9], up to 20 digits) expected",
            18,
        ),
        (
            "\"v08\"",
            "\"v08",
            "line 1: invalid string: \"v08; uuid { 0x000000 ...\nParse error in line 1: short \
             quoted string (\"..up to 20 characters, no newline..\") expected",
            9,
        ),
        (
            "bm {",
            "bm @",
            "Parse error in line 5: opening brace ({) expected; got invalid input character \
             '\\x40' [@]",
            8,
        ),
        (
            "}",
            "",
            "Parse error in line 3: closing brace (}) expected, not 'la-size-sect'",
            5,
        ),
    ] {
        let text = V08.replacen(from, to, 1);
        let error = verify(&text, Version::V08).unwrap_err();
        let (said, place) = error.rsplit_once('\n').unwrap();
        assert_eq!(said, message, "{from} {to}");
        assert!(
            place.contains(&format!(", column {column}: ")),
            "{from} {to}: {place}"
        );
    }
    let cut = V08.rsplit_once(';').unwrap().0;
    assert_eq!(
        verify(cut, Version::V08).unwrap_err(),
        "Parse error in line 5: semicolon (;) expected, but end of file encountered\n\
         line 5, column 84:     bm { 0x0123456789ABCDEF; 3 times 0x1111111122222222; 4 times \
         0x0000000000000000"
    );
    assert_eq!(
        verify(&format!("{V08}\n version"), Version::V08).unwrap_err(),
        "Parse error in line 6: end of file expected, not 'version'\nline 6, column 2:  version"
    );
}

#[test]
fn members_in_a_comment() {
    let value = |text: &str| super::lexer::Lexer::new(text.as_bytes()).commented("members");
    assert_eq!(value("\n# members 0x0000000000000007;\n"), Some(7));
    for other in [
        "# members 0x07;\n",
        "# members",
        "members 0x0000000000000007;\n",
        "",
    ] {
        assert_eq!(value(other), None);
    }
}

proptest! {
    #[test]
    fn never_panics(at in 0usize..V08.len(), noise in ".{0,12}", cut: bool) {
        let at = (0..=at).rev().find(|at| V08.is_char_boundary(*at)).unwrap();
        let rest = if cut { "" } else { &V08[at..] };
        let text = format!("{}{noise}{rest}", &V08[..at]);
        for format in [Version::V08, Version::V09] {
            let mut parser = Parser::new(text.as_bytes());
            if let Ok(header) = parser.header(format) {
                let _ = parser.bitmaps(format, header.max_peers, &mut Nowhere);
            }
        }
    }

    #[test]
    fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut parser = Parser::new(&bytes);
        let tokens = (0..=bytes.len()).take_while(|_| parser.next() != Token::End).count();
        prop_assert!(tokens <= bytes.len());
    }
}
