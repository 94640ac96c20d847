//! What happened, for who debugs a seed; and a digest of all of it, for who compares two runs.

use std::collections::VecDeque;

/// The newest lines, and a digest of all.
#[derive(Debug)]
pub(super) struct Trace {
    lines: VecDeque<String>,
    keep: usize,
    digest: u64,
}

impl Trace {
    pub(super) fn new(keep: usize) -> Self {
        Trace {
            lines: VecDeque::new(),
            keep,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub(super) fn add(&mut self, now: u64, what: std::fmt::Arguments<'_>) {
        let line = format!("{now:>7} {what}");
        // FNV-1a: two runs that differ are to be told apart, nothing more.
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() >= self.keep {
            self.lines.pop_front();
        }
        if self.keep > 0 {
            self.lines.push_back(line);
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
