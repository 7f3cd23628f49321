//! What goes with what: options with commands and formats, and what they mean together.

use drbd_meta::geometry::{AlStriping, BitmapBlockSize, MdIndex};
use drbd_meta::limits::{MAX_CREATE_AL_BLOCKS, MIN_AL_BLOCKS};

use super::{Args, OutputFormat, parse_size};
use crate::meta::failure::{BAD, Failure, USAGE};
use crate::meta::record::Version;

/// Which options go with which command and format.
pub(super) fn check_options(args: &Args) -> Result<(), Failure> {
    let bad = |text: String| Err(Failure::new(BAD, text));
    let name = args.command.name;
    let blocks = args
        .al_stripes
        .unwrap_or(1)
        .checked_mul(args.al_stripe_size_4k.unwrap_or(MIN_AL_BLOCKS));
    if blocks.is_some_and(|blocks| blocks < MIN_AL_BLOCKS) {
        return bad("invalid (too small) al-stripe* settings".into());
    }
    if blocks.is_none_or(|blocks| blocks > MAX_CREATE_AL_BLOCKS) {
        return bad("invalid (too large) al-stripe* settings".into());
    }
    let striped = args.al_stripes.is_some() || args.al_stripe_size_4k.is_some();
    let creates = name == "create-md";
    if striped && !creates && name != "restore-md" {
        return bad(
            "The --al-stripe* options are only allowed with create-md and restore-md".into(),
        );
    }
    // The last column: whether v08 has it.
    for (option, given, v08) in [
        ("peer-max-bio-size", args.peer_max_bio_size.is_some(), true),
        ("effective-size", args.effective_size.is_some(), true),
        ("diskful-peers", args.diskful_peers != 0, false),
        ("bitmap-block-size", args.bitmap_block_size.is_some(), true),
        (
            "initial-current-uuid",
            args.initial_current_uuid.is_some(),
            false,
        ),
        ("consistent", args.consistent, false),
        ("uptodate", args.uptodate, false),
        ("peers-outdated", args.peers_outdated, false),
        ("rotate-uuids", args.rotate_uuids, false),
    ] {
        if given && !creates {
            return bad(format!(
                "The --{option} option is only allowed with create-md"
            ));
        }
        if given && !v08 && args.format != Version::V09 {
            return bad(format!(
                "--{option} is not supported with '{}'",
                args.format
            ));
        }
    }
    if args
        .bitmap_block_size
        .is_some_and(|size| size != BitmapBlockSize::DEFAULT)
    {
        if args.format != Version::V09 {
            return bad(format!(
                "bitmap-block-size not supported with '{}'",
                args.format
            ));
        }
        if matches!(args.index, MdIndex::Indexed(_)) {
            return bad("bitmap-block-size not supported with a numeric index".into());
        }
    }
    if args.output_format != OutputFormat::Auto && name != "dump-superblock" {
        return bad("The --output-format option is only allowed with dump-superblock".into());
    }
    match (args.command.node_id, args.node_id) {
        (true, None) if args.format == Version::V09 => {
            bad(format!("The {name} command requires the --node-id option"))
        }
        (false, Some(_)) => bad(format!(
            "The {name} command does not accept the --node-id option"
        )),
        _ => Ok(()),
    }
}

/// The striping that the options ask for, if they do.
pub(in crate::meta) fn striping(args: &Args) -> Result<Option<AlStriping>, Failure> {
    // v07 has one layout.
    let given = args.al_stripes.is_some() || args.al_stripe_size_4k.is_some();
    if !given || args.format == Version::V07 {
        return Ok(None);
    }
    let stripes = args.al_stripes.unwrap_or(1);
    let size = args.al_stripe_size_4k.unwrap_or(MIN_AL_BLOCKS);
    AlStriping::new(stripes, size)
        .map(Some)
        .map_err(|error| Failure::new(BAD, error.to_string()))
}

/// The number of peers, `create-md`'s argument.
pub(in crate::meta) fn max_peers(args: &Args) -> Result<u8, Failure> {
    if args.format != Version::V09 {
        return Ok(1);
    }
    let Some(text) = args.rest.first() else {
        let text =
            "USAGE: drbdmeta MINOR v09 ... create-md MAX_PEERS\n\n  MAX_PEERS argument missing";
        return Err(Failure::new(USAGE, text));
    };
    let peers = parse_size(text, 1)?;
    u8::try_from(peers)
        .ok()
        .filter(|peers| (1..=31).contains(peers))
        .ok_or_else(|| Failure::new(USAGE, "MAX_PEERS argument not in allowed range 1 .. 31."))
}
