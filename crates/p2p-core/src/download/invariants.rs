//! What must hold after every step of a scheduler; checked in builds with debug assertions.

use super::requests::MAX_COPIES;
use super::scheduler::Scheduler;
use super::source::WINDOW;

/// Fetches up to this many pieces are checked piece by piece after each step. In larger ones the steps between two checks
/// grow with what there is to check, so that a check costs a step about as much as the step itself.
const SMALL: u32 = 512;

impl Scheduler {
    /// Panics if the scheduler contradicts itself. Only called in builds with debug assertions.
    pub(super) fn check(&self) {
        let flights = u32::try_from(self.requests.flights.len()).unwrap_or(u32::MAX);
        let sum = self
            .stored
            .count()
            .checked_add(self.pool.count())
            .and_then(|sum| sum.checked_add(flights));
        assert_eq!(
            sum,
            Some(self.pieces.count()),
            "each piece is free, in flight or stored"
        );
        let small = self.pieces.count() <= SMALL;
        let open = self.sources.len().saturating_mul(WINDOW);
        let pause = self.requests.flights.len().saturating_add(open);
        let pause = u64::try_from(pause).unwrap_or(u64::MAX);
        if small || self.steps.is_multiple_of(pause.max(1)) {
            self.check_sources();
            self.check_flights();
            self.check_requests();
        }
    }

    fn check_sources(&self) {
        for (id, source) in &self.sources {
            assert!(source.open.len() <= WINDOW, "{id:?} is over its window");
            assert!(!self.is_banned(*id), "{id:?} lied and is still here");
            for request in &source.open {
                let request = self.requests.get(*request);
                assert!(
                    request.is_some_and(|request| request.open && request.source == *id),
                    "{id:?} has a request open that is not"
                );
            }
        }
    }

    fn check_flights(&self) {
        for (piece, flight) in &self.requests.flights {
            assert!(
                !self.stored.contains(*piece),
                "{piece} is stored and in flight"
            );
            assert!(!self.pool.is_free(*piece), "{piece} is free and in flight");
            assert!(
                flight.arrived.is_some() || !flight.waiting.is_empty(),
                "nobody brings {piece}"
            );
            assert!(
                flight.waiting.len() <= MAX_COPIES,
                "too many copies of {piece}"
            );
            let mut askers = Vec::new();
            for id in &flight.waiting {
                let request = self.requests.get(*id);
                assert!(
                    request.is_some_and(|request| request.open && request.waiting.contains(piece)),
                    "{id:?} does not know that it brings {piece}"
                );
                askers.extend(request.map(|request| request.source));
            }
            if let Some(id) = flight.arrived {
                let request = self.requests.get(id);
                assert!(
                    request.is_some_and(|request| request.arrived.contains(piece)),
                    "{id:?} does not know that it brought {piece}"
                );
            }
            askers.sort_unstable();
            askers.dedup();
            assert_eq!(
                askers.len(),
                flight.waiting.len(),
                "one source was asked twice for {piece}"
            );
        }
    }

    fn check_requests(&self) {
        for (id, request) in &self.requests.table {
            assert!(
                request.open || !request.arrived.is_empty(),
                "{id:?} is over and still here"
            );
            assert!(
                request.open || request.waiting.is_empty(),
                "{id:?} is over and still waits"
            );
            let listed = self.sources.get(&request.source);
            let listed = listed.is_some_and(|source| source.open.contains(id));
            assert_eq!(listed, request.open, "{id:?} is open for one side only");
            let flies = |piece: &u32| self.requests.flights.get(piece);
            for piece in &request.waiting {
                assert!(
                    flies(piece).is_some_and(|flight| flight.waiting.contains(id)),
                    "{id:?} waits for {piece} in vain"
                );
            }
            for piece in &request.arrived {
                assert!(
                    flies(piece).is_some_and(|flight| flight.arrived == Some(*id)),
                    "{piece} of {id:?} awaits no verdict"
                );
            }
        }
    }
}
