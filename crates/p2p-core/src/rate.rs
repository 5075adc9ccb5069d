//! Rate limits: a token bucket as pure arithmetic, and the shared handle whose callers sleep on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A bucket that fills at `rate` bytes a second and holds a tenth of a second's worth, at least one block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    rate: u64,
    /// When all bytes taken so far have been paid for.
    paid_until: Instant,
}

/// How much earlier than its even pace a caller may take bytes.
const BURST: Duration = Duration::from_millis(100);

impl Bucket {
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            paid_until: now,
        }
    }

    /// Takes `bytes` and says how long to wait before using them.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let floor = now.checked_sub(BURST).unwrap_or(now);
        let start = self.paid_until.max(floor);
        let cost = Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(self.rate))
                .unwrap_or(u64::MAX),
        );
        self.paid_until = start.checked_add(cost).unwrap_or(start);
        start.saturating_duration_since(now)
    }
}

/// A sleeping thread looks this often whether it still has to.
const NAP: Duration = Duration::from_millis(50);

/// A limit shared by the threads that move bytes, which can be changed while they do.
#[derive(Debug, Clone)]
pub(crate) struct RateLimit(Option<Arc<Mutex<Option<Bucket>>>>);

impl RateLimit {
    /// `None`: as fast as can be, until it is changed.
    pub(crate) fn new(rate: Option<u64>, now: Instant) -> Self {
        let bucket = rate.map(|rate| Bucket::new(rate, now));
        Self(Some(Arc::new(Mutex::new(bucket))))
    }

    /// Another rate from now on, also for those who hold this limit already.
    pub(crate) fn set(&self, rate: Option<u64>, now: Instant) {
        let Some(shared) = &self.0 else { return };
        let mut bucket = shared.lock().unwrap_or_else(PoisonError::into_inner);
        // One that stays as it is must not give its burst twice.
        if bucket.map(|bucket| bucket.rate) != rate.map(|rate| rate.max(1)) {
            *bucket = rate.map(|rate| Bucket::new(rate, now));
        }
    }

    /// No limit, ever.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Takes `bytes` and says how long to wait before using them.
    pub(crate) fn take(&self, bytes: u64, now: Instant) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |bucket| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket
                .as_mut()
                .map_or(Duration::ZERO, |bucket| bucket.take(bytes, now))
        })
    }

    /// Takes `bytes` and sleeps until they may be used. False, and at once, when nobody wants them any more.
    pub(crate) fn pay(&self, bytes: u64, is_over: impl Fn() -> bool) -> bool {
        let now = Instant::now();
        let until = now + self.take(bytes, now);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if is_over() {
                return false;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000_000, start);
        let mut now = start;
        for _ in 0..100 {
            now += bucket.take(250_000, now);
        }
        let took = now.duration_since(start).as_secs_f64();
        assert!((24.0..25.5).contains(&took), "{took}");
    }

    #[test]
    fn nobody_sleeps_for_what_is_not_wanted() {
        let limit = RateLimit::new(Some(1), Instant::now());
        assert!(limit.pay(1_000_000, || false), "the first is a burst");
        let begun = Instant::now();
        assert!(!limit.pay(1, || begun.elapsed() > NAP));
    }

    #[test]
    fn a_changed_rate_holds_for_those_who_have_the_limit() {
        let now = Instant::now();
        let limit = RateLimit::new(None, now);
        let held = limit.clone();
        assert_eq!(held.take(1_000_000, now), Duration::ZERO);
        limit.set(Some(1_000_000), now);
        held.take(1_000_000, now);
        assert!(held.take(1, now) >= Duration::from_millis(890));
        limit.set(Some(1_000_000), now);
        assert!(
            held.take(1, now) >= Duration::from_millis(890),
            "the same rate is no new start"
        );
        limit.set(None, now);
        assert_eq!(held.take(1_000_000, now), Duration::ZERO);
        let none = RateLimit::none();
        none.set(Some(1), now);
        assert_eq!(none.take(1_000_000, now), Duration::ZERO);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000_000, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.take(1_000_000, later), Duration::ZERO);
        let wait = bucket.take(1, later);
        assert!(wait >= Duration::from_millis(890), "{wait:?}");
    }
}
