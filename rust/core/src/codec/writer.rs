//! The parts of a history as bytes.

use crate::stability::Stability;
use crate::table::Table;

/// Bytes so far.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(super) fn stability(&mut self, stability: &Stability) {
        let last = stability.last;
        for count in [
            last.map(|last| last.step),
            last.map(|last| last.left),
            last.map(|last| last.kept),
        ] {
            self.u64(count.unwrap_or(0));
        }
        self.f64(last.and_then(|last| last.jaccard).unwrap_or(0.0));
        self.f64(last.map_or(0.0, |last| last.mean_ema));
        self.f64(last.map_or(0.0, |last| last.stable_share));
        self.f64(stability.jaccard_sum);
        for survival in &stability.survival {
            self.u64(survival.kept);
            self.u64(survival.anchored);
        }
        for &count in &stability.lifetimes.counts {
            self.u64(count);
        }
        self.u64(stability.lifetimes.unknown);
        let anchors = stability.distinct_anchors();
        self.u64(anchors.len() as u64);
        for anchor in anchors {
            self.u64(anchor.at);
            self.u64(anchor.pairs.len() as u64);
            self.0.extend(
                anchor
                    .pairs
                    .iter()
                    .flat_map(|pair| pair.bits().to_le_bytes()),
            );
        }
    }

    pub(super) fn records(&mut self, table: &Table) {
        self.u64(table.len() as u64);
        for record in table.sorted() {
            self.u64(record.pair.bits());
            self.f64(record.low);
            self.f64(record.err);
            self.u64(record.last);
            self.u64(record.hits);
            self.u64(record.first_seen);
            self.u64(record.last_seen);
            self.u32(record.streak);
            self.u32(record.longest_streak);
        }
    }
}
