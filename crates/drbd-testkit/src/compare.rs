//! Comparing replicas.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Context, Error, Result};

const PORTION: usize = 1 << 20;

/// Compares the first `len` bytes of files that stand for disks.
///
/// # Errors
/// When they cannot be read; when they differ, with the places.
pub fn identical(files: &[&Path], len: u64) -> Result<()> {
    let Some((first, others)) = files.split_first() else {
        return Ok(());
    };
    let open = |path: &Path| File::open(path).context(path.display());
    let reference = open(first)?;
    let others: Vec<(&Path, File)> = others
        .iter()
        .map(|p| open(p).map(|f| (*p, f)))
        .collect::<Result<_>>()?;
    let (mut a, mut b) = (vec![0; PORTION], vec![0; PORTION]);
    let mut different = Vec::new();
    let mut blocks = 0_u64;
    let mut at = 0;
    while at < len {
        let n = usize::try_from(len - at).unwrap_or(PORTION).min(PORTION);
        let a = a.get_mut(..n).unwrap_or_default();
        reference.read_exact_at(a, at).context(first.display())?;
        for (path, file) in &others {
            let b = b.get_mut(..n).unwrap_or_default();
            file.read_exact_at(b, at).context(path.display())?;
            if a == b {
                continue;
            }
            for (i, (x, y)) in a.chunks(4096).zip(b.chunks(4096)).enumerate() {
                if x != y {
                    blocks += 1;
                    if different.len() < 8 {
                        different.push(format!("{} at {}", path.display(), at + 4096 * i as u64));
                    }
                }
            }
        }
        at += n as u64;
    }
    if blocks == 0 {
        return Ok(());
    }
    Err(Error::new(format!(
        "replicas differ from {} in {blocks} blocks of 4 KiB, such as {}",
        first.display(),
        different.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_difference() {
        let dir = crate::cleanup::Directory::for_disks().unwrap();
        let [a, b] = ["a", "b"].map(|n| dir.path().join(n));
        let mut bytes = vec![7; 3 << 20];
        std::fs::write(&a, &bytes).unwrap();
        bytes[(2 << 20) + 5000] = 8;
        std::fs::write(&b, &bytes).unwrap();
        assert!(identical(&[&a, &b], (2 << 20) + 4096).is_ok());
        let error = identical(&[&a, &b], 3 << 20).unwrap_err().to_string();
        assert!(
            error.contains("1 blocks") && error.contains(&format!("{}", (2 << 20) + 4096)),
            "{error}"
        );
    }
}
