//! Writes whose outcome can be checked: every block says which write it comes from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::rng::Rng;
use crate::{Error, Result, Volume};

/// Size of a block in bytes.
pub const BLOCK: usize = 4096;
/// Writes between two flushes.
const BATCH: u64 = 8;
const MAGIC: u64 = 0x6472_6264_6c6f_6164;

/// What must be on a volume.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    blocks: BTreeMap<u64, Block>,
    generation: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// The last write known to be durable; 0 if none is.
    durable: u64,
    /// The last write that was tried.
    tried: u64,
}

/// The content of a block after a write.
fn content(block: u64, generation: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let seed = block.wrapping_mul(0x1_0001).wrapping_add(generation);
    Rng::new(seed).fill(&mut bytes);
    let header = [MAGIC, block, generation];
    for (to, word) in bytes.chunks_exact_mut(8).zip(header) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

impl Expected {
    /// Writes a batch to random blocks below `span` and flushes; afterwards they are expected.
    ///
    /// # Errors
    /// When a request fails. What was tried may or may not be there then.
    pub fn write(
        &mut self,
        volume: &mut Volume,
        rng: &mut Rng,
        span: u64,
        batch: u64,
    ) -> Result<()> {
        let mut written = Vec::new();
        for _ in 0..batch {
            let block = rng.below(span.min(volume.size()) / BLOCK as u64);
            self.generation += 1;
            self.blocks.entry(block).or_default().tried = self.generation;
            volume.write(block * BLOCK as u64, &content(block, self.generation))?;
            written.push((block, self.generation));
        }
        volume.flush()?;
        for (block, generation) in written {
            self.blocks.entry(block).or_default().durable = generation;
        }
        Ok(())
    }

    /// How many blocks are expected.
    pub fn len(&self) -> usize {
        self.blocks.values().filter(|b| b.durable > 0).count()
    }

    /// Whether nothing is expected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads everything that was written and compares.
    ///
    /// # Errors
    /// When a block does not have what was flushed, nor something tried later.
    pub fn check(&mut self, volume: &mut Volume) -> Result<()> {
        let mut lost = Vec::new();
        for (block, expected) in &mut self.blocks {
            let found = volume.read(*block * BLOCK as u64, BLOCK)?;
            let word = |i: usize| {
                let bytes = found.get(8 * i..8 * i + 8).and_then(|b| b.try_into().ok());
                bytes.map_or(0, u64::from_le_bytes)
            };
            let ours = word(0) == MAGIC && word(1) == *block && found == content(*block, word(2));
            let generation = if ours { word(2) } else { 0 };
            let untouched = !ours && found.iter().all(|b| *b == 0);
            if (ours || untouched) && (expected.durable..=expected.tried).contains(&generation) {
                // What is there now must stay.
                *expected = Block {
                    durable: generation,
                    tried: generation,
                };
            } else {
                lost.push(format!(
                    "block {block}: {} instead of write {} to {}",
                    if ours {
                        format!("write {generation}")
                    } else {
                        "something else".to_owned()
                    },
                    expected.durable,
                    expected.tried
                ));
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        let some = lost.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        Err(Error::new(format!(
            "{} of {} blocks are wrong: {some}",
            lost.len(),
            self.blocks.len()
        )))
    }
}

/// A thread that writes until it is told to stop or a request fails.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    batches: Arc<AtomicU64>,
    thread: JoinHandle<(Expected, Option<Error>)>,
}

impl Load {
    /// Starts to write to blocks below `span`.
    pub fn start(mut volume: Volume, mut expected: Expected, seed: u64, span: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let batches = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&batches));
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::new(seed);
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = expected.write(&mut volume, &mut rng, span, BATCH) {
                    return (expected, Some(error));
                }
                counter.fetch_add(1, Ordering::Relaxed);
            }
            (expected, None)
        });
        Load {
            stop,
            batches,
            thread,
        }
    }

    /// How many batches of eight writes and a flush are done.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Whether it ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops; what is expected now, and the error that ended it before.
    pub fn stop(self) -> (Expected, Option<Error>) {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(end) => end,
            Err(_) => (Expected::default(), Some(Error::new("the load panicked"))),
        }
    }
}
