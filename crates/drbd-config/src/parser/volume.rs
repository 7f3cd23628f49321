//! Volumes ("Configuration language", section 4.5).

use crate::diagnostic::Diagnostic;
use crate::lexer::{Keyword, Kind, Token};
use crate::model::{Disk, MetaDisk, Volume};
use crate::options::{Group, Scale, parse_number};

use super::options::DiskPlace;
use super::tokens::{Range, Step, Stop, Tokens, unexpected};
use super::{Parser, VOLUME};

const MINOR: Range = Range {
    name: "minor",
    min: 0,
    max: u32::MAX as u64,
};
const INDEX: Range = Range {
    name: "meta-disk",
    min: 0,
    max: u32::MAX as u64,
};
const VOLUME_WORDS: &[&str] = &[
    "device",
    "disk",
    "meta-disk",
    "flexible-meta-disk",
    "tiebreaker",
    "skip",
];

impl Parser {
    /// A device that is only named must have its number in its name.
    fn check_device_name(&mut self, volume: &Volume) {
        let Some(name) = volume.device.as_ref().filter(|_| volume.minor.is_none()) else {
            return;
        };
        if !name.starts_with("/dev/drbd") {
            let message = "device name must start with /dev/drbd\n\
                           \t(/dev/ is optional, but drbd is required)";
            self.device_errors
                .push((volume.device_span, message.to_owned()));
        }
        let message = "no minor given nor device name contains a minor number";
        self.device_errors
            .push((volume.device_span, message.to_owned()));
    }

    /// A `volume` block, or a statement of the implicit volume 0.
    pub(super) fn volume_or_part(
        &mut self,
        t: &mut Tokens<'_>,
        token: &Token<'_>,
        keyword: Keyword,
        volumes: &mut Vec<Volume>,
    ) -> Step<()> {
        if keyword == Keyword::Volume {
            let (number, span) = t.integer(VOLUME, &mut self.diagnostics)?;
            t.expect(Kind::Open)?;
            let number = number.map_or(0, |n| n as u32);
            let mut volume = Volume::new(number, false, span);
            loop {
                let token = t.next();
                match token.kind {
                    Kind::Close => break,
                    Kind::Keyword(keyword) => self.volume_part(t, &token, keyword, &mut volume)?,
                    _ => return Err(unexpected_in_volume(&token)),
                }
            }
            volumes.push(volume);
            return Ok(());
        }
        // The implicit volume comes first, so that the ends of the list tell what there is.
        if volumes.last().is_some_and(|v| !v.implicit) {
            self.report(Diagnostic::error(
                token.span,
                "mixing explicit and implicit volumes is not allowed",
            ));
        }
        if !volumes.first().is_some_and(|v| v.implicit) {
            volumes.insert(0, Volume::new(0, true, token.span));
        }
        match volumes.first_mut() {
            Some(volume) => self.volume_part(t, token, keyword, volume),
            None => Ok(()),
        }
    }

    /// One `volume_stmt`.
    fn volume_part(
        &mut self,
        t: &mut Tokens<'_>,
        token: &Token<'_>,
        keyword: Keyword,
        volume: &mut Volume,
    ) -> Step<()> {
        match keyword {
            Keyword::Device => {
                volume.device = None;
                volume.minor = None;
                volume.device_span = token.span;
                volume.given.device = true;
                volume.device_named = false;
                if t.keyword() != Some(Keyword::Minor) {
                    let name = t.string("TK_STRING | minor")?;
                    volume.device_span = name.span;
                    volume.device_named = true;
                    let name = if name.text.starts_with("drbd") {
                        format!("/dev/{}", name.text)
                    } else {
                        name.text.into_owned()
                    };
                    volume.minor = minor_of(&name);
                    volume.device = Some(self.texts.share(&name));
                }
                let next = t.next();
                match next.kind {
                    Kind::Semicolon => {
                        self.check_device_name(volume);
                        return Ok(());
                    }
                    Kind::Keyword(Keyword::Minor) => {}
                    _ => return Err(unexpected(&next, "minor | ;", &["minor"])),
                }
                let (minor, span) = t.integer(MINOR, &mut self.diagnostics)?;
                let minor = minor.map(|m| m as u32);
                if volume.device.is_none() {
                    volume.device_span = span;
                } else if volume.minor.is_some() && volume.minor != minor {
                    self.device_errors.push((
                        volume.device_span,
                        format!(
                            "explicit minor number must match with device name\n\
                             \tTry \"device /dev/drbd{m} minor {m};\",\n\
                             \tor leave off either device name or explicit minor.",
                            m = minor.unwrap_or(0)
                        ),
                    ));
                } else if let Some(name) = &volume.device
                    && volume.minor.is_none()
                    && !name.starts_with("/dev/drbd_")
                {
                    self.device_errors.push((
                        volume.device_span,
                        "arbitrary device name must start with /dev/drbd_\n\
                         \tmind the '_'! (/dev/ is optional, but drbd_ is required)"
                            .to_owned(),
                    ));
                }
                volume.minor = minor;
                t.expect(Kind::Semicolon)?;
            }
            Keyword::Disk => {
                volume.given.disk = true;
                if t.accept(Kind::Open).is_some() {
                    let Volume {
                        disk_options,
                        peer_device_options,
                        device_options,
                        ..
                    } = volume;
                    self.disk_options(t, DiskPlace::Volume, |item| match item.def.group {
                        Group::PeerDevice => peer_device_options.push(item),
                        Group::Device => device_options.push(item),
                        _ => disk_options.push(item),
                    })?;
                    return Ok(());
                }
                let path = t.string("TK_STRING | {")?;
                t.expect(Kind::Semicolon)?;
                volume.disk_span = path.span;
                volume.disk = Some(match &*path.text {
                    "none" => Disk::None,
                    path => Disk::Path(self.texts.share(path)),
                });
            }
            Keyword::MetaDisk | Keyword::FlexibleMetaDisk => {
                let path = t.string("TK_STRING")?;
                volume.given.meta_disk = true;
                volume.meta_disk_span = path.span;
                let name = self.texts.share(&path.text);
                let mut meta_disk = match &*name {
                    "internal" => MetaDisk::Internal,
                    _ => MetaDisk::Flexible(name.clone()),
                };
                if keyword == Keyword::MetaDisk && t.accept(Kind::OpenBracket).is_some() {
                    let (index, span) = t.integer(INDEX, &mut self.diagnostics)?;
                    t.expect(Kind::CloseBracket)?;
                    if meta_disk == MetaDisk::Internal {
                        let message = "internal meta data has no index";
                        self.report(Diagnostic::error(span, message));
                    } else {
                        meta_disk = MetaDisk::Indexed(name, index.map_or(0, |i| i as u32));
                    }
                }
                t.expect(Kind::Semicolon)?;
                volume.meta_disk = Some(meta_disk);
            }
            Keyword::Tiebreaker => {
                let value = t.next();
                volume.given.tiebreaker = true;
                volume.tiebreaker = match value.kind {
                    Kind::Keyword(Keyword::Yes) => Some(true),
                    Kind::Keyword(Keyword::No) => Some(false),
                    _ => return Err(unexpected(&value, "yes | no", &["yes", "no"])),
                };
                t.expect(Kind::Semicolon)?;
            }
            Keyword::Skip => self.skip(t)?,
            _ => return Err(unexpected_in_volume(token)),
        }
        Ok(())
    }
}

fn unexpected_in_volume(token: &Token<'_>) -> Stop {
    unexpected(
        token,
        "device | disk | meta-disk | flexible-meta-disk | tiebreaker",
        VOLUME_WORDS,
    )
}

/// The minor a device name stands for: `/dev/drbdN`.
fn minor_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("/dev/drbd")?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    parse_number(digits, Scale::One)
        .ok()
        .and_then(|n| u32::try_from(n).ok())
}

/// Sorts the volumes of a section by number; several blocks of one number become one.
pub(super) fn settle(volumes: &mut Vec<Volume>) {
    volumes.sort_by_key(|v| (v.number, !v.implicit));
    volumes.dedup_by(|later, first| {
        let same = later.number == first.number && !first.implicit;
        if same {
            absorb(first, later);
        }
        same
    });
}

/// Takes over what a later block of the same volume says.
fn absorb(first: &mut Volume, later: &mut Volume) {
    if later.given.device {
        first.minor = later.minor;
        first.device = later.device.take();
        first.device_named = later.device_named;
        first.device_span = later.device_span;
    }
    if let Some(disk) = later.disk.take() {
        first.disk = Some(disk);
        first.disk_span = later.disk_span;
    }
    if let Some(meta_disk) = later.meta_disk.take() {
        first.meta_disk = Some(meta_disk);
        first.meta_disk_span = later.meta_disk_span;
    }
    first.tiebreaker = later.tiebreaker.or(first.tiebreaker);
    for (to, from) in [
        (&mut first.disk_options, &later.disk_options),
        (&mut first.peer_device_options, &later.peer_device_options),
        (&mut first.device_options, &later.device_options),
    ] {
        from.iter().for_each(|item| to.push(item.clone()));
    }
    first.given.device |= later.given.device;
    first.given.disk |= later.given.disk;
    first.given.meta_disk |= later.given.meta_disk;
    first.given.tiebreaker |= later.given.tiebreaker;
}
