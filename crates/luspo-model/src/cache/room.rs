//! Which places of the cache are free.

use std::ops::Range;

/// Runs of free places, in order, none next to another.
#[derive(Debug)]
pub(super) struct Room {
    free: Vec<Range<usize>>,
    capacity: usize,
}

impl Room {
    pub fn new(capacity: usize) -> Self {
        let mut room = Self { free: Vec::new(), capacity };
        room.give(0..capacity);
        room
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn free(&self) -> usize {
        self.free.iter().map(Range::len).sum()
    }

    /// A run of so many places, from the shortest free run that has them: the long ones stay whole for those that need
    /// them.
    pub fn take(&mut self, places: usize) -> Option<Range<usize>> {
        if places == 0 {
            return Some(0..0);
        }
        let fitting = self.free.iter().enumerate().filter(|(_, run)| run.len() >= places);
        let (index, _) = fitting.min_by_key(|(_, run)| run.len())?;
        let run = &mut self.free[index];
        let taken = run.start..run.start + places;
        run.start += places;
        if run.start == run.end {
            self.free.remove(index);
        }
        Some(taken)
    }

    /// Takes a run back.
    pub fn give(&mut self, run: Range<usize>) {
        if run.start == run.end {
            return;
        }
        let at = self.free.partition_point(|free| free.start < run.start);
        self.free.insert(at, run);
        if at + 1 < self.free.len() && self.free[at].end == self.free[at + 1].start {
            self.free[at].end = self.free.remove(at + 1).end;
        }
        if at > 0 && self.free[at - 1].end == self.free[at].start {
            self.free[at - 1].end = self.free.remove(at).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_are_given_back_grow_together() {
        let mut room = Room::new(10);
        let [a, b, c] = [3, 4, 3].map(|places| room.take(places).unwrap());
        assert_eq!((room.free(), room.take(1)), (0, None));
        room.give(a);
        room.give(c);
        assert_eq!((room.free(), room.take(4)), (6, None), "there are six places, but not four in a row");
        room.give(b);
        assert_eq!(room.take(10), Some(0..10));
    }

    #[test]
    fn the_shortest_run_that_is_long_enough_is_taken() {
        let mut room = Room::new(9);
        let [a, _b, c, _d] = [5, 1, 2, 1].map(|places| room.take(places).unwrap());
        room.give(a);
        room.give(c.clone());
        assert_eq!(room.take(2), Some(c), "not the five at the start");
        assert_eq!(room.take(5), Some(0..5));
        assert_eq!(room.take(0), Some(0..0));
    }
}
