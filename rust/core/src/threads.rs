//! A contiguous run of items, shared out among threads.
//!
//! Threads live for one call and cost some tens of microseconds each: no pool survives a fork or waits beside one of
//! torch's. Tasks that the system gives no thread for are run by the caller.

use crate::Error;
use std::ops::Range;
use std::sync::Mutex;
use std::thread::{Builder, ScopedJoinHandle};

/// The most threads that a call starts, however many were asked for.
const MOST: usize = 256;

/// Cuts `0..items` into at most `parts` runs of about equal cost; none is empty.
pub(crate) fn split(items: usize, parts: usize, cost: impl Fn(usize) -> u64) -> Vec<Range<usize>> {
    let parts = parts.clamp(1, MOST);
    let (mut shares, mut start, mut spent) = (Vec::new(), 0, 0);
    let cut = if parts > 1 { items } else { 0 };
    let total: u64 = (0..cut).map(&cost).sum();
    for item in 0..cut {
        spent += cost(item);
        let due = total * (shares.len() as u64 + 1) / parts as u64;
        if spent >= due && shares.len() + 1 < parts && item + 1 < items {
            shares.push(start..item + 1);
            start = item + 1;
        }
    }
    shares.push(start..items);
    shares
}

/// Runs every task, all but the last on threads of their own, and gives the answers in order.
pub(crate) fn run_all<T: Send, R: Send>(tasks: Vec<T>, run: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut tasks = tasks;
    let Some(last) = tasks.pop() else {
        return Vec::new();
    };
    if tasks.is_empty() {
        return vec![run(last)];
    }
    let run = &run;
    let waiting: Vec<_> = tasks
        .into_iter()
        .map(|task| Mutex::new(Some(task)))
        .collect();
    let take = |task: &Mutex<Option<T>>| task.lock().ok().and_then(|mut task| task.take()).map(run);
    let take = &take;
    std::thread::scope(|scope| {
        let start = |task| Builder::new().spawn_scoped(scope, move || take(task));
        let threads: Vec<_> = waiting.iter().map(start).collect();
        let last = run(last);
        let answer = |(thread, task): (std::io::Result<ScopedJoinHandle<'_, _>>, _)| match thread {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => take(task),
        };
        let mut answers: Vec<R> = threads
            .into_iter()
            .zip(&waiting)
            .filter_map(answer)
            .collect();
        debug_assert_eq!(answers.len(), waiting.len());
        answers.push(last);
        answers
    })
}

pub(crate) const fn check_threads(threads: usize) -> Result<(), Error> {
    if threads == 0 {
        Err(Error::ZeroThreads)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_cover_everything_once(costs in prop::collection::vec(0_u64..9, 0..40), parts in 0_usize..9) {
            let shares = split(costs.len(), parts, |at| costs[at]);
            prop_assert!(shares.len() <= parts.max(1));
            let covered: Vec<usize> = shares.iter().cloned().flatten().collect();
            prop_assert_eq!(covered, (0..costs.len()).collect::<Vec<_>>());
            prop_assert!(shares.iter().all(|share| !share.is_empty()) || costs.is_empty());
        }
    }

    #[test]
    fn answers_keep_the_order_of_the_tasks() {
        assert_eq!(run_all((0..5).collect(), |n| n * n), [0, 1, 4, 9, 16]);
        assert!(run_all(Vec::<u8>::new(), |n| n).is_empty());
    }
}
