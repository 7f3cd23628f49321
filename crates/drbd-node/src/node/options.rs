//! Options by name, as commands carry them, and as the engine uses them.
//!
//! Names, ranges and defaults come from the option table of `drbd-config`; what the engine does not know
//! (names of the next transports, for example) is kept for `show` all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use drbd_config::options::{OptionDef, OptionValue};
use drbd_engine::command::Resize;
use drbd_engine::options::{
    DeviceOptions, DiskOptions, Fencing, NetOptions, OnCongestion, OnIoError, OnNoData, OnNoQuorum,
    PeerDeviceOptions, Quorum, ReadBalancing, ResourceOptions, SbPolicy, WireProtocol,
};

/// Options that were given for an object, by name. What is not here has its default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Values(BTreeMap<&'static str, (&'static OptionDef, OptionValue)>);

impl Values {
    /// Checks and collects options; a repeated one counts the last time.
    ///
    /// # Errors
    /// A text that names the option and says what is wrong.
    pub fn parse<'a>(
        find: impl Fn(&str) -> Option<&'static OptionDef>,
        given: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<Values, String> {
        let mut values = Values::default();
        for (name, text) in given {
            let Some(def) = find(name) else {
                return Err(format!("unknown option '{name}'"));
            };
            let text = match text {
                Some(text) => text,
                None if def.is_boolean() => "yes",
                None => return Err(format!("option '{name}' needs a value")),
            };
            let value = def
                .parse(text)
                .map_err(|e| format!("option '{name}': '{text}' is {e}"))?;
            values.0.insert(def.name, (def, value));
        }
        Ok(values)
    }

    /// These options with some changed: the others keep their values, or with `set_defaults` only those
    /// that cannot be changed do.
    #[must_use]
    pub fn changed(&self, given: Values, set_defaults: bool) -> Values {
        let mut new = self.clone();
        if set_defaults {
            new.0.retain(|_, (def, _)| def.fixed || def.internal);
        }
        new.0.extend(given.0);
        new
    }

    /// Disk options with this size, in sectors.
    #[must_use]
    pub fn with_size(&self, size: u64) -> Values {
        let mut new = self.clone();
        new.0.remove("size");
        let def = drbd_config::options::DISK.iter().find(|o| o.name == "size");
        if let (Some(def), Ok(size), true) = (def, i64::try_from(size), size != 0) {
            new.0.insert(def.name, (def, OptionValue::Number(size)));
        }
        new
    }

    /// The value given for an option, if any.
    pub fn get(&self, name: &str) -> Option<&OptionValue> {
        self.0.get(name).map(|(_, value)| value)
    }

    /// A flag; absent is `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name)
            .and_then(OptionValue::as_bool)
            .unwrap_or(false)
    }

    /// A number, if given.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(OptionValue::as_number)
    }

    /// A text or word, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OptionValue::as_str)
    }

    /// Every option given, as `show` spells it.
    pub fn shown(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .map(|(name, (def, value))| ((*name).to_owned(), def.show(value)))
            .collect()
    }

    fn set_bool(&self, name: &str, to: &mut bool) {
        if let Some(value) = self.get(name).and_then(OptionValue::as_bool) {
            *to = value;
        }
    }

    fn set_u32(&self, name: &str, to: &mut u32) {
        if let Some(value) = self.number(name) {
            *to = u32::try_from(value).unwrap_or(u32::MAX);
        }
    }

    fn set_u64(&self, name: &str, to: &mut u64) {
        if let Some(value) = self.number(name) {
            *to = u64::try_from(value).unwrap_or(0);
        }
    }

    /// A time, counted in units of `unit`.
    fn set_time(&self, name: &str, unit: Duration, to: &mut Duration) {
        if let Some(value) = self.number(name) {
            *to = unit.saturating_mul(u32::try_from(value).unwrap_or(u32::MAX));
        }
    }

    fn set_text(&self, name: &str, to: &mut String) {
        if let Some(value) = self.text(name) {
            value.clone_into(to);
        }
    }

    fn set_word<T>(&self, name: &str, to: &mut T, parse: impl Fn(&str) -> Option<T>) {
        if let Some(value) = self.text(name).and_then(parse) {
            *to = value;
        }
    }

    fn set_quorum(&self, name: &str, to: &mut Quorum) {
        match self.get(name) {
            Some(OptionValue::Number(count)) => {
                *to = Quorum::Count(u32::try_from(*count).unwrap_or(1))
            }
            Some(OptionValue::Word(_, "majority")) => *to = Quorum::Majority,
            Some(OptionValue::Word(_, "all")) => *to = Quorum::All,
            Some(OptionValue::Word(..)) => *to = Quorum::Off,
            _ => {}
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const DECISECOND: Duration = Duration::from_millis(100);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Options of a resource.
pub fn resource(v: &Values) -> ResourceOptions {
    let mut o = ResourceOptions::default();
    v.set_bool("auto-promote", &mut o.auto_promote);
    v.set_time(
        "auto-promote-timeout",
        DECISECOND,
        &mut o.auto_promote_timeout,
    );
    v.set_word("on-no-data-accessible", &mut o.on_no_data, |w| match w {
        "io-error" => Some(OnNoData::IoError),
        "suspend-io" => Some(OnNoData::SuspendIo),
        _ => None,
    });
    v.set_quorum("quorum", &mut o.quorum);
    v.set_quorum("quorum-minimum-redundancy", &mut o.quorum_min_redundancy);
    v.set_word("on-no-quorum", &mut o.on_no_quorum, |w| match w {
        "io-error" => Some(OnNoQuorum::IoError),
        "suspend-io" => Some(OnNoQuorum::SuspendIo),
        _ => None,
    });
    if let Some(word) = v.text("on-suspended-primary-outdated") {
        o.force_secondary_when_outdated = word == "force-secondary";
    }
    v.set_u64("peer-ack-window", &mut o.peer_ack_window);
    v.set_time("peer-ack-delay", MILLISECOND, &mut o.peer_ack_delay);
    v.set_time("twopc-timeout", DECISECOND, &mut o.twopc_timeout);
    v.set_time(
        "twopc-retry-timeout",
        DECISECOND,
        &mut o.twopc_retry_timeout,
    );
    o
}

fn policy(word: &str) -> Option<SbPolicy> {
    Some(match word {
        "disconnect" => SbPolicy::Disconnect,
        "discard-younger-primary" => SbPolicy::DiscardYounger,
        "discard-older-primary" => SbPolicy::DiscardOlder,
        "discard-zero-changes" => SbPolicy::DiscardZeroChanges,
        "discard-least-changes" => SbPolicy::DiscardLeastChanges,
        "discard-local" => SbPolicy::DiscardLocal,
        "discard-remote" => SbPolicy::DiscardRemote,
        "consensus" => SbPolicy::Consensus,
        "discard-secondary" => SbPolicy::DiscardSecondary,
        "call-pri-lost-after-sb" | "call-pri-lost" => SbPolicy::CallPriLost,
        "violently-as0p" | "violently" => SbPolicy::ViolentlyAs0p,
        "retry-connect" => SbPolicy::RetryConnect,
        "auto-discard" => SbPolicy::AutoDiscard,
        _ => return None,
    })
}

/// Options of a connection.
pub fn net(v: &Values) -> NetOptions {
    let mut o = NetOptions::default();
    v.set_word("protocol", &mut o.protocol, |w| match w {
        "A" => Some(WireProtocol::A),
        "B" => Some(WireProtocol::B),
        "C" => Some(WireProtocol::C),
        _ => None,
    });
    v.set_time("timeout", DECISECOND, &mut o.timeout);
    v.set_time("ping-timeout", DECISECOND, &mut o.ping_timeout);
    v.set_time("ping-int", SECOND, &mut o.ping_int);
    v.set_time("connect-int", SECOND, &mut o.connect_int);
    v.set_time("socket-check-timeout", DECISECOND, &mut o.sock_check);
    v.set_u32("ko-count", &mut o.ko_count);
    v.set_u32("max-epoch-size", &mut o.max_epoch_size);
    v.set_u32("max-buffers", &mut o.max_buffers);
    v.set_u32("sndbuf-size", &mut o.sndbuf_size);
    v.set_u32("rcvbuf-size", &mut o.rcvbuf_size);
    v.set_bool("allow-two-primaries", &mut o.two_primaries);
    v.set_bool("allow-remote-read", &mut o.allow_remote_read);
    v.set_text("cram-hmac-alg", &mut o.cram_hmac_alg);
    v.set_text("shared-secret", &mut o.shared_secret);
    v.set_word("after-sb-0pri", &mut o.after_sb_0pri, policy);
    v.set_word("after-sb-1pri", &mut o.after_sb_1pri, policy);
    v.set_word("after-sb-2pri", &mut o.after_sb_2pri, policy);
    v.set_bool("always-asbp", &mut o.always_asbp);
    v.set_word("rr-conflict", &mut o.rr_conflict, policy);
    v.set_text("data-integrity-alg", &mut o.integrity_alg);
    v.set_text("verify-alg", &mut o.verify_alg);
    v.set_text("csums-alg", &mut o.csums_alg);
    v.set_bool("csums-after-crash-only", &mut o.csums_after_crash_only);
    v.set_bool("use-rle", &mut o.use_rle);
    v.set_word("fencing", &mut o.fencing, |w| match w {
        "dont-care" => Some(Fencing::DontCare),
        "resource-only" => Some(Fencing::ResourceOnly),
        "resource-and-stonith" => Some(Fencing::ResourceAndStonith),
        _ => None,
    });
    v.set_word("on-congestion", &mut o.on_congestion, |w| match w {
        "block" => Some(OnCongestion::Block),
        "pull-ahead" => Some(OnCongestion::PullAhead),
        "disconnect" => Some(OnCongestion::Disconnect),
        _ => None,
    });
    v.set_u32("congestion-fill", &mut o.congestion_fill);
    v.set_u32("congestion-extents", &mut o.congestion_extents);
    o
}

/// Options of a backing disk.
pub fn disk(v: &Values) -> DiskOptions {
    let mut o = DiskOptions::default();
    v.set_u64("size", &mut o.size);
    v.set_word("on-io-error", &mut o.on_io_error, |w| match w {
        "pass_on" => Some(OnIoError::PassOn),
        "call-local-io-error" => Some(OnIoError::CallLocalIoError),
        "detach" => Some(OnIoError::Detach),
        _ => None,
    });
    v.set_bool("disk-barrier", &mut o.disk_barrier);
    v.set_bool("disk-flushes", &mut o.disk_flushes);
    v.set_bool("disk-drain", &mut o.disk_drain);
    v.set_bool("md-flushes", &mut o.md_flushes);
    v.set_u32("al-extents", &mut o.al_extents);
    v.set_bool("al-updates", &mut o.al_updates);
    v.set_bool(
        "discard-zeroes-if-aligned",
        &mut o.discard_zeroes_if_aligned,
    );
    v.set_u32("rs-discard-granularity", &mut o.rs_discard_granularity);
    v.set_word("read-balancing", &mut o.read_balancing, |w| {
        Some(match w {
            "prefer-local" => ReadBalancing::PreferLocal,
            "prefer-remote" => ReadBalancing::PreferRemote,
            "round-robin" => ReadBalancing::RoundRobin,
            "least-pending" => ReadBalancing::LeastPending,
            "when-congested-remote" => ReadBalancing::WhenCongestedRemote,
            "32K-striping" => ReadBalancing::Striping(15),
            "64K-striping" => ReadBalancing::Striping(16),
            "128K-striping" => ReadBalancing::Striping(17),
            "256K-striping" => ReadBalancing::Striping(18),
            "512K-striping" => ReadBalancing::Striping(19),
            "1M-striping" => ReadBalancing::Striping(20),
            _ => return None,
        })
    });
    v.set_time("disk-timeout", DECISECOND, &mut o.disk_timeout);
    // -1 is nobody.
    let after = v.number("resync-after");
    o.resync_after = after.and_then(|minor| u32::try_from(minor).ok());
    o
}

/// What `resize` asks for.
#[must_use]
pub fn resize(v: &Values) -> Resize {
    let count = |name| v.number(name).and_then(|n| u32::try_from(n).ok());
    Resize {
        size: v
            .number("size")
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        assume_peer_has_space: v.flag("assume-peer-has-space"),
        assume_clean: v.flag("assume-clean"),
        al_stripes: count("al-stripes"),
        al_stripe_size_kb: count("al-stripe-size-kB"),
    }
}

/// Options of a volume on one peer.
pub fn peer_device(v: &Values) -> PeerDeviceOptions {
    let mut o = PeerDeviceOptions::default();
    v.set_u32("resync-rate", &mut o.resync_rate);
    v.set_u32("c-plan-ahead", &mut o.c_plan_ahead);
    v.set_u32("c-delay-target", &mut o.c_delay_target);
    v.set_u32("c-fill-target", &mut o.c_fill_target);
    v.set_u32("c-max-rate", &mut o.c_max_rate);
    v.set_u32("c-min-rate", &mut o.c_min_rate);
    v.set_bool("bitmap", &mut o.bitmap);
    v.set_bool(
        "resync-without-replication",
        &mut o.resync_without_replication,
    );
    v.set_bool("peer-tiebreaker", &mut o.peer_tiebreaker);
    o
}

/// Options of a replicated device.
pub fn device(v: &Values) -> DeviceOptions {
    let mut o = DeviceOptions::default();
    v.set_u32("max-bio-size", &mut o.max_bio_size);
    v.set_u32("max-io-depth", &mut o.max_io_depth);
    v.set_bool("diskless", &mut o.diskless);
    v.set_u32("block-size", &mut o.block_size);
    let mut granularity = u32::MAX;
    v.set_u32("discard-granularity", &mut granularity);
    o.discard_granularity = (granularity != u32::MAX).then_some(granularity);
    o
}

#[cfg(test)]
mod tests {
    use drbd_config::options::{DEVICE, DISK, NET, PEER_DEVICE, RESOURCE};

    use super::*;

    /// Every option of a table with its default spelled out.
    fn defaults(table: &'static [OptionDef]) -> Values {
        let texts: Vec<(&str, String)> = table
            .iter()
            .filter_map(|def| Some((def.name, def.default_text()?)))
            .collect();
        let given = texts
            .iter()
            .map(|(name, text)| (*name, Some(text.as_str())));
        // A default outside of the range means "not given".
        let given = given.filter(|(name, _)| *name != "discard-granularity");
        Values::parse(|name| table.iter().find(|def| def.name == name), given).unwrap()
    }

    #[test]
    fn the_engine_and_the_table_have_the_same_defaults() {
        assert_eq!(resource(&defaults(RESOURCE)), ResourceOptions::default());
        assert_eq!(net(&defaults(NET)), NetOptions::default());
        assert_eq!(disk(&defaults(DISK)), DiskOptions::default());
        assert_eq!(
            peer_device(&defaults(PEER_DEVICE)),
            PeerDeviceOptions::default()
        );
        assert_eq!(device(&defaults(DEVICE)), DeviceOptions::default());
        assert!(defaults(RESOURCE).0.len() > 10 && defaults(NET).0.len() > 20);
    }

    #[test]
    fn every_word_has_a_meaning() {
        use drbd_config::options::Kind;
        for (table, differs) in [
            (
                RESOURCE,
                (|v| resource(v) != ResourceOptions::default()) as fn(&Values) -> bool,
            ),
            (NET, |v| net(v) != NetOptions::default()),
            (DISK, |v| disk(v) != DiskOptions::default()),
        ] {
            // Not the engine's business, or not yet.
            let other = ["cpu-mask", "transport", "tls"];
            for def in table.iter().filter(|def| !other.contains(&def.name)) {
                let words: &[&str] = match def.kind {
                    Kind::Enum { words, .. } | Kind::NumberOrWord { words, .. } => words,
                    _ => continue,
                };
                for word in words {
                    let given = std::iter::once((def.name, Some(*word)));
                    let values =
                        Values::parse(|name| table.iter().find(|def| def.name == name), given)
                            .unwrap();
                    let is_default = def.default_text().as_deref() == Some(word);
                    assert_eq!(differs(&values), !is_default, "{} {word}", def.name);
                }
            }
        }
    }

    #[test]
    fn changes_and_defaults() {
        let parse = |given: &[(&'static str, Option<&'static str>)]| {
            Values::parse(
                |name| NET.iter().find(|def| def.name == name),
                given.iter().copied(),
            )
        };
        let old = parse(&[
            ("_name", Some("bravo")),
            ("ko-count", Some("3")),
            ("protocol", Some("a")),
        ])
        .unwrap();
        let kept = old.changed(parse(&[("timeout", Some("10"))]).unwrap(), false);
        assert_eq!(
            (net(&kept).ko_count, net(&kept).timeout),
            (3, Duration::from_secs(1))
        );
        assert_eq!(net(&kept).protocol, WireProtocol::A);
        let reset = kept.changed(parse(&[("allow-two-primaries", None)]).unwrap(), true);
        assert_eq!((net(&reset).ko_count, net(&reset).two_primaries), (7, true));
        assert_eq!(reset.text("_name"), Some("bravo"), "the name is no setting");
        assert!(parse(&[("no-such", None)]).unwrap_err().contains("no-such"));
        assert!(
            parse(&[("ko-count", Some("x"))])
                .unwrap_err()
                .contains("ko-count")
        );
        assert!(parse(&[("ko-count", None)]).is_err());
        assert_eq!(
            parse(&[("congestion-fill", Some("1M"))]).unwrap().shown()["congestion-fill"],
            "2048s"
        );
    }
}
