//! Bytes by chance from a seed, for the tests that no input makes a parser panic.

/// Marsaglia's xorshift64: the same seed gives the same bytes.
pub struct Chance(u64);

impl Chance {
    /// `seed` must not be 0.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Fewer than `length_limit` bytes; every fourth is NUL, so that texts end.
    pub fn bytes(&mut self, length_limit: u64) -> Vec<u8> {
        let length = self.below(length_limit);
        (0..length).map(|_| if self.below(4) == 0 { 0 } else { self.below(256) as u8 }).collect()
    }
}
