//! Lines of `events2`, and what they add up to.

use std::collections::BTreeMap;

use super::{Object, Objects, check_value};

/// Groups of keys that are printed together, in their order (section 16.1). The last word says whether the group is there
/// with `--statistics` only.
fn groups(object: &str) -> &'static [(&'static [&'static str], bool)] {
    match object {
        "resource" => &[
            (&["role"], false),
            (&["suspended"], false),
            (&["force-io-failures"], false),
            (&["write-ordering"], true),
            (&["may_promote", "promotion_score"], false),
        ],
        "device" => &[
            (&["backing_dev", "disk", "client", "open", "quorum"], false),
            (
                &[
                    "size",
                    "read",
                    "written",
                    "al-writes",
                    "bm-writes",
                    "upper-pending",
                    "lower-pending",
                ],
                true,
            ),
            (&["al-suspended"], true),
            (&["blocked"], true),
        ],
        "connection" => &[
            (&["connection"], false),
            (&["role"], false),
            (&["congested"], true),
            (&["ap-in-flight", "rs-in-flight"], true),
        ],
        "peer-device" => &[
            (&["replication"], false),
            (&["peer-disk", "peer-client"], false),
            (&["resync-suspended"], false),
            (&["done"], false),
            (
                &["received", "sent", "out-of-sync", "pending", "unacked"],
                true,
            ),
            (&["dbdt1", "eta"], true),
        ],
        "path" => &[(&["established"], false)],
        _ => &[],
    }
}

/// What was asked of the tool, and which release it is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// `--statistics`.
    pub statistics: bool,
    /// `--timestamps`.
    pub timestamps: bool,
    /// Since 9.29 devices say whether they are open.
    pub open: bool,
}

/// What was observed so far.
#[derive(Debug)]
pub struct Observed {
    kind: Kind,
    /// What is there now.
    pub objects: Objects,
    /// `exists -` was seen.
    pub complete: bool,
    /// Helpers that were called and have not ended.
    calls: Vec<String>,
    /// Changes of a key of an object, one after the other: before and after.
    pub changes: BTreeMap<(Object, String), Vec<(String, String)>>,
}

/// What belongs to an object besides its identity.
type More = Vec<(&'static str, String)>;

struct Words<'a> {
    rest: std::iter::Peekable<std::str::Split<'a, char>>,
}

impl<'a> Words<'a> {
    fn value(&mut self, key: &str) -> Result<&'a str, String> {
        let word = self
            .rest
            .next()
            .ok_or_else(|| format!("{key} is missing"))?;
        match word.split_once(':') {
            Some((found, value)) if found == key => Ok(value),
            _ => Err(format!("'{word}' where {key} should be")),
        }
    }

    fn optional(&mut self, key: &str) -> Option<&'a str> {
        let word = self.rest.peek()?;
        let (found, value) = word.split_once(':')?;
        (found == key).then(|| {
            self.rest.next();
            value
        })
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<T, String> {
        let value = self.value(key)?;
        value
            .parse()
            .map_err(|_| format!("{key}:{value} is no such number"))
    }

    fn end(&mut self) -> Result<(), String> {
        match self.rest.next() {
            None => Ok(()),
            Some(word) => Err(format!("'{word}' is too much")),
        }
    }
}

/// `YYYY-MM-DDThh:mm:ss.uuuuuu+hh:mm`
fn is_timestamp(word: &str) -> bool {
    let form = "0000-00-00T00:00:00.000000+00:00";
    word.len() == form.len()
        && word.bytes().zip(form.bytes()).all(|(c, f)| match f {
            b'0' => c.is_ascii_digit(),
            b'+' => c == b'+' || c == b'-',
            other => c == other,
        })
}

impl Observed {
    pub fn new(kind: Kind) -> Observed {
        Observed {
            kind,
            objects: Objects::new(),
            complete: false,
            calls: Vec::new(),
            changes: BTreeMap::new(),
        }
    }

    /// Takes a line in.
    ///
    /// # Errors
    /// It is not one that the specification allows here.
    pub fn line(&mut self, line: &str) -> Result<(), String> {
        self.try_line(line).map_err(|e| format!("{e}: {line}"))
    }

    fn try_line(&mut self, line: &str) -> Result<(), String> {
        let mut rest = line.split(' ').peekable();
        if self.kind.timestamps && !rest.next().is_some_and(is_timestamp) {
            return Err("no timestamp".into());
        }
        let kind = rest.next().unwrap_or("");
        let object = rest.next().ok_or("no object")?;
        if line.contains("  ") || line.ends_with(' ') {
            return Err("a blank too much".into());
        }
        let mut words = Words { rest };
        match (kind, object) {
            ("exists", "-") if !self.complete => {
                self.complete = true;
                words.end()
            }
            ("exists", _) if self.complete => Err("the initial state is over".into()),
            ("create" | "change" | "destroy" | "rename" | "call" | "response", _)
                if !self.complete =>
            {
                Err("the initial state is not complete".into())
            }
            ("rename", "resource") => self.rename(&mut words),
            ("call" | "response", "helper") => self.helper(kind, &mut words),
            ("exists" | "create" | "change" | "destroy", _) => self.state(kind, object, &mut words),
            _ => Err("no such kind".into()),
        }
    }

    fn rename(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let (old, new) = (words.value("name")?, words.value("new_name")?);
        words.end()?;
        let old = Object::Resource { name: old.into() };
        if !self.objects.contains_key(&old) {
            return Err("no such resource".into());
        }
        let all = std::mem::take(&mut self.objects);
        let rename = |object: Object| match object.resource() == old.resource() {
            true => object.renamed(new),
            false => object,
        };
        self.objects = all.into_iter().map(|(o, v)| (rename(o), v)).collect();
        let all = std::mem::take(&mut self.changes);
        self.changes = all
            .into_iter()
            .map(|((o, k), v)| ((rename(o), k), v))
            .collect();
        Ok(())
    }

    fn helper(&mut self, kind: &str, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.value("name")?.to_owned();
        let mut about = name.clone();
        for key in [
            "peer-node-id",
            "conn-name",
            "local",
            "peer",
            "volume",
            "minor",
        ] {
            if let Some(value) = words.optional(key) {
                about.push_str(&format!(" {key}:{value}"));
            }
        }
        about.push_str(&format!(" {}", words.value("helper")?));
        if kind == "response" {
            words.number::<i32>("status")?;
        }
        words.end()?;
        if !self.objects.contains_key(&Object::Resource { name }) {
            return Err("no such resource".into());
        }
        match (kind, self.calls.iter().position(|call| *call == about)) {
            ("call", _) => self.calls.push(about),
            (_, Some(at)) => drop(self.calls.remove(at)),
            (_, None) => return Err("a response without a call".into()),
        }
        Ok(())
    }

    /// The identity of an object, and what belongs to it besides.
    fn identity(
        &self,
        kind: &str,
        object: &str,
        words: &mut Words<'_>,
    ) -> Result<(Object, More), String> {
        let name = words.value("name")?.to_owned();
        let mut more = Vec::new();
        Ok(match object {
            "resource" => (Object::Resource { name }, more),
            "device" => {
                let volume = words.number("volume")?;
                if kind != "destroy" {
                    more.push(("minor", words.number::<u32>("minor")?.to_string()));
                }
                (Object::Device { name, volume }, more)
            }
            "connection" | "peer-device" | "path" => {
                let peer = words.number("peer-node-id")?;
                let conn_name = words.value("conn-name")?.to_owned();
                let connection = Object::Connection {
                    name: name.clone(),
                    peer,
                };
                if object == "connection" {
                    more.push(("conn-name", conn_name));
                    return Ok((connection, more));
                }
                let known = self.objects.get(&connection).ok_or("no such connection")?;
                if known.get("conn-name") != Some(&conn_name) {
                    return Err("another conn-name than the connection's".into());
                }
                if object == "peer-device" {
                    let volume = words.number("volume")?;
                    (Object::PeerDevice { name, peer, volume }, more)
                } else {
                    let (local, remote) = (words.value("local")?, words.value("peer")?);
                    let (local, remote) = (local.to_owned(), remote.to_owned());
                    (
                        Object::Path {
                            name,
                            peer,
                            local,
                            remote,
                        },
                        more,
                    )
                }
            }
            _ => return Err("no such object".into()),
        })
    }

    fn state(&mut self, kind: &str, object: &str, words: &mut Words<'_>) -> Result<(), String> {
        let (id, more) = self.identity(kind, object, words)?;
        let parent = Object::Resource {
            name: id.resource().to_owned(),
        };
        if id != parent && !self.objects.contains_key(&parent) {
            return Err("its resource is not there".into());
        }
        let there = self.objects.contains_key(&id);
        match kind {
            "destroy" => {
                words.end()?;
                return if there {
                    self.destroy(&id)
                } else {
                    Err("it was not there".into())
                };
            }
            "change" if !there => return Err("it was not there".into()),
            "exists" | "create" if there => return Err("it was there".into()),
            _ => {}
        }
        let known = self.objects.get(&id).cloned().unwrap_or_default();
        for (key, value) in &more {
            if there && known.get(*key) != Some(value) {
                return Err(format!("another {key}"));
            }
        }
        let mut now = known.clone();
        now.extend(more.into_iter().map(|(k, v)| (k.to_owned(), v)));
        let mut printed = 0;
        for (keys, only_statistics) in groups(object) {
            if *only_statistics && !self.kind.statistics {
                continue;
            }
            let keys: Vec<_> = keys
                .iter()
                .filter(|k| self.kind.open || **k != "open")
                .collect();
            let first = keys.first().map_or("", |k| k);
            if words
                .rest
                .peek()
                .and_then(|w| w.split_once(':'))
                .map(|(k, _)| k)
                != Some(first)
            {
                // With a new object everything is said; of a resync only if there is one.
                if kind != "change" && !matches!(first, "done" | "dbdt1") {
                    return Err(format!("{first} is missing"));
                }
                continue;
            }
            let mut changed = kind != "change";
            for key in keys {
                let value = words.value(key)?;
                check_value(key, value)?;
                let before = now.insert((*key).to_string(), value.to_owned());
                changed |= before.as_deref() != Some(value);
                if let Some(before) = before.filter(|before| before != value) {
                    let changes = self.changes.entry((id.clone(), (*key).to_string()));
                    changes.or_default().push((before, value.to_owned()));
                }
            }
            // Statistics and progress are compared with more than is printed.
            if !changed && !*only_statistics && first != "done" {
                return Err(format!("{first} is said again"));
            }
            printed += 1;
        }
        words.end()?;
        if printed == 0 {
            return Err("nothing changed".into());
        }
        if let Object::PeerDevice { name, volume, .. } = &id {
            let device = Object::Device {
                name: name.clone(),
                volume: *volume,
            };
            if kind != "change" && !self.objects.contains_key(&device) {
                return Err("its volume is not there".into());
            }
        }
        self.objects.insert(id, now);
        Ok(())
    }

    fn destroy(&mut self, id: &Object) -> Result<(), String> {
        match id {
            // Peer devices and paths go without saying.
            Object::Connection {
                name: of,
                peer: with,
            } => {
                self.objects.retain(|object, _| {
                    !matches!(object, Object::PeerDevice { name, peer, .. } | Object::Path { name, peer, .. }
                        if name == of && peer == with)
                });
            }
            Object::Device {
                name: of,
                volume: nr,
            } => {
                let of_volume = |object: &Object| matches!(object, Object::PeerDevice { name, volume, .. } if name == of && volume == nr);
                if self.objects.keys().any(of_volume) {
                    return Err("a peer device is left".into());
                }
            }
            Object::Resource { name } => {
                let left = self
                    .objects
                    .keys()
                    .find(|o| *o != id && o.resource() == name);
                if let Some(left) = left {
                    return Err(format!("{left:?} is left"));
                }
            }
            Object::PeerDevice { .. } | Object::Path { .. } => {}
        }
        self.objects.remove(id);
        Ok(())
    }

    /// The promotion score and whether a promotion may be tried, where that follows from what was observed (section
    /// 16.3).
    ///
    /// # Errors
    /// They are not what was said.
    pub fn check_promotion(&self) -> Result<(), String> {
        for (object, values) in &self.objects {
            let Object::Resource { name } = object else {
                continue;
            };
            let is = |object: &Object, key: &str, value: &str| {
                self.objects
                    .get(object)
                    .and_then(|v| v.get(key))
                    .is_some_and(|v| v == value)
            };
            let of = |o: &&Object| o.resource() == name;
            let devices: Vec<&Object> = self
                .objects
                .keys()
                .filter(of)
                .filter(|o| matches!(o, Object::Device { .. }))
                .collect();
            let copies = |device: &Object| {
                let Object::Device { volume: nr, .. } = device else {
                    return 0;
                };
                let peers = self.objects.keys().filter(of).filter(|o| {
                    matches!(o, Object::PeerDevice { volume, .. } if volume == nr)
                        && is(o, "peer-disk", "UpToDate")
                });
                peers.count() + usize::from(is(device, "disk", "UpToDate"))
            };
            let least = devices.iter().map(|d| copies(d)).min().unwrap_or(0);
            let hopeless = least == 0
                || is(object, "force-io-failures", "yes")
                || devices.iter().any(|d| is(d, "quorum", "no"));
            let usable = |d: &&Object| {
                ["Inconsistent", "Consistent", "UpToDate"]
                    .iter()
                    .any(|s| is(d, "disk", s))
            };
            let own = devices.iter().filter(|d| is(d, "disk", "UpToDate")).count();
            let mut score = if devices.iter().all(usable) {
                10_000
            } else {
                0
            };
            score += 100 * own.min(99) + least.min(99);
            let score = if hopeless { 0 } else { score }.to_string();
            if values.get("promotion_score") != Some(&score) {
                return Err(format!(
                    "{object:?}: the score is {score}, said is {values:?}"
                ));
            }
            let primary =
                is(object, "role", "Primary")
                    || self.objects.keys().filter(of).any(|o| {
                        matches!(o, Object::Connection { .. }) && is(o, "role", "Primary")
                    });
            let may = values.get("may_promote").is_some_and(|v| v == "yes");
            if may && (hopeless || primary) || !may && !hopeless && !primary && own == devices.len()
            {
                return Err(format!("{object:?}: may_promote is wrong: {values:?}"));
            }
        }
        Ok(())
    }
}
