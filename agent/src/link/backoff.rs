//! Pure: exponential back-off with jitter.

use std::time::Duration;

/// Doubles from `first` to `most`; the caller brings the randomness.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Upstream's reflector: 800 ms doubling to 30 s.
    #[must_use]
    pub fn reflector() -> Self {
        Self::new(Duration::from_millis(800), Duration::from_secs(30))
    }

    /// A back-off between two bounds.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next delay, between one and two times the base (as client-go's jitter of 1.0), `random` in 0..1.
    pub fn advance(&mut self, random: f64) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.most);
        base.mul_f64(1.0 + random.clamp(0.0, 1.0)).min(self.most)
    }

    /// Something worked.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let seen: Vec<u64> = (0..4).map(|_| backoff.advance(0.0).as_secs()).collect();
        assert_eq!(seen, [1, 2, 4, 5]);
        backoff.reset();
        assert_eq!(backoff.advance(0.5), Duration::from_millis(1500));
        assert!(Backoff::reflector().advance(1.0) <= Duration::from_secs(30));
    }
}
