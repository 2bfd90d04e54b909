//! Chance from a seed: SplitMix64 (Steele, Lea, Flood 2014), one 64-bit word of state.
//!
//! What it is not: good enough for secrets. Invariant: the same seed gives the same sequence on every machine.

use std::ops::Range;

pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        // One step apart, neighbouring seeds would share most of their sequence; the multiplier spreads them.
        Dice(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    /// Another die, for choices that must not move those of this one.
    pub fn fork(&self) -> Dice {
        let mut dice = Dice(self.0.rotate_left(17) ^ 0x5851_F42D_4C95_7F2D);
        dice.word();
        dice
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of `range`; its start when it is empty. The bias of the modulus is below 2^-40 for our ranges.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.word() % width
    }

    /// Microseconds between two numbers of milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> u64 {
        self.within(range.start * 1000..range.end * 1000)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.word() % 100 < chance
    }

    pub fn index(&mut self, length: usize) -> usize {
        (self.word() % length.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vigna's reference output for seed 0, so that a seed means the same on every machine.
    #[test]
    fn the_sequence_is_splitmix64() {
        let mut dice = Dice(0);
        assert_eq!(dice.word(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(dice.word(), 0x6E78_9E6A_A1B9_65F4);
    }
}
