//! The replies on their way to a client: collected during one wake-up, sent with one operation.

use std::collections::VecDeque;

use crate::pool::Buf;
use crate::ring::{Memory, Part};

use super::codec::ReplyHead;

/// Parts sent with one operation at most.
const PARTS: usize = 64;

/// Replies that are not sent completely.
#[derive(Debug, Default)]
pub(super) struct Output {
    queue: VecDeque<Part>,
    /// Vectors of earlier operations, to be used again.
    spare: Vec<Vec<u8>>,
    /// Bytes of payload in the queue and under way.
    payload: usize,
    sending: bool,
}

impl Output {
    /// Whether everything is sent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.sending
    }

    /// Bytes of payload that are held.
    pub(super) fn payload(&self) -> usize {
        self.payload
    }

    /// Adds the head of a reply.
    pub(super) fn head(&mut self, head: &ReplyHead) {
        let bytes = head.as_bytes();
        if let Some(Part {
            memory: Memory::Bytes(last),
            at: 0,
            len,
        }) = self.queue.back_mut()
            && *len == last.len()
        {
            last.extend_from_slice(bytes);
            *len = last.len();
            return;
        }
        let mut fresh = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1024));
        fresh.clear();
        fresh.extend_from_slice(bytes);
        self.queue.push_back(Part::all(Memory::Bytes(fresh)));
    }

    /// Adds data behind the head of a reply to a read.
    pub(super) fn data(&mut self, data: Buf) {
        self.payload += data.len();
        self.queue.push_back(Part::all(Memory::Shared(data)));
    }

    /// The parts of the next operation, if there is something to send and nothing under way.
    pub(super) fn take(&mut self) -> Option<Vec<Part>> {
        if self.sending || self.queue.is_empty() {
            return None;
        }
        self.sending = true;
        let count = self.queue.len().min(PARTS);
        Some(self.queue.drain(..count).collect())
    }

    /// An operation with these parts has sent `sent` bytes.
    pub(super) fn sent(&mut self, parts: Vec<Part>, mut sent: usize) {
        self.sending = false;
        let mut rest = Vec::new();
        for mut part in parts {
            let done = part.len.min(sent);
            sent -= done;
            if matches!(part.memory, Memory::Shared(_)) {
                self.payload = self.payload.saturating_sub(done);
            }
            if done == part.len {
                if let Memory::Bytes(bytes) = part.memory
                    && self.spare.len() < PARTS
                {
                    self.spare.push(bytes);
                }
            } else {
                part.at += done;
                part.len -= done;
                rest.push(part);
            }
        }
        for part in rest.into_iter().rev() {
            self.queue.push_front(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Pool, Purpose};

    #[test]
    fn heads_coalesce_and_short_sends_resume() {
        let pool = Pool::new(0);
        let mut out = Output::default();
        let status = ReplyHead::status(false, 1, Ok(()));
        out.head(&status);
        out.head(&status);
        let mut data = pool.alloc(4096, Purpose::Internal).unwrap();
        data.fill(7);
        out.data(data.freeze());
        out.head(&status);
        let mut expect = [status.as_bytes(), status.as_bytes()].concat();
        expect.extend([7; 4096]);
        expect.extend(status.as_bytes());

        let mut got: Vec<u8> = Vec::new();
        while let Some(parts) = out.take() {
            assert!(out.take().is_none(), "one operation at a time");
            let all: Vec<u8> = parts.iter().flat_map(|p| p.bytes().to_vec()).collect();
            let sent = all.len().min(1000);
            got.extend(&all[..sent]);
            out.sent(parts, sent);
        }
        assert_eq!(got, expect);
        assert!(out.is_empty() && out.payload() == 0);
    }
}
