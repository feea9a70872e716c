//! For the unit tests: processes that share a batch, as threads.

use std::sync::{Barrier, Mutex};

use luspo_core::Collective;

struct Meeting {
    sums: Mutex<Vec<f64>>,
    all_here: Barrier,
}

struct Process<'a> {
    rank: usize,
    size: usize,
    meeting: &'a Meeting,
}

impl Collective for Process<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&self, values: &mut [f64]) {
        {
            let mut sums = self.meeting.sums.lock().unwrap();
            sums.resize(values.len(), 0.0);
            sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
        }
        self.meeting.all_here.wait();
        values.copy_from_slice(&self.meeting.sums.lock().unwrap());
        if self.meeting.all_here.wait().is_leader() {
            self.meeting.sums.lock().unwrap().clear();
        }
        self.meeting.all_here.wait();
    }
}

/// What each of `size` processes makes of its rank.
pub fn run<T: Send>(size: usize, work: impl Fn(usize, &dyn Collective) -> T + Sync) -> Vec<T> {
    let meeting = Meeting { sums: Mutex::new(Vec::new()), all_here: Barrier::new(size) };
    let (meeting, work) = (&meeting, &work);
    std::thread::scope(|scope| {
        let start = |rank| scope.spawn(move || work(rank, &Process { rank, size, meeting }));
        let processes: Vec<_> = (0..size).map(start).collect();
        processes.into_iter().map(|process| process.join().unwrap()).collect()
    })
}
