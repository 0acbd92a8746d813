//! Threads that are made at start and stay: who needs one while the server runs never has to ask the system for it, which
//! may have none to give.
//!
//! A pool has so many threads and a queue as long; whoever hands it work bounds how much that is. Work that panics is
//! lost, its thread goes on. The thread that worked last works next: what it keeps in memory is used again.
//!
//! A thread that has nothing more to do ends once a new one has its place. The allocator keeps memory for each thread, and
//! some of what a thread made and others have freed, as an answer that was sent. It takes all of that back only at the
//! thread's end. Where the system has no thread to give, the old one stays.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

type PoolJob = Box<dyn FnOnce() + Send>;

/// How long a thread that has worked waits for more work before another takes its place.
const RENEWED_AFTER: Duration = Duration::from_secs(2);

/// Threads that are all there, or it did not start.
#[derive(Clone)]
pub struct Pool(Arc<PoolHandle>);

/// Work that was not done to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// All threads are at work and as many jobs wait; nothing was begun.
    #[error("no thread is free")]
    Busy,
    /// It panicked.
    #[error("it panicked")]
    Panicked,
}

/// Tells the threads to end when nobody can hand them work any more.
struct PoolHandle(Arc<PoolShared>);

struct PoolShared {
    name: String,
    state: Mutex<PoolState>,
    /// Of each thread.
    wake: Vec<Condvar>,
}

#[derive(Default)]
struct PoolState {
    jobs: VecDeque<PoolJob>,
    /// Threads that wait, the one that worked last at the end.
    idle: Vec<usize>,
    closed: bool,
}

impl Pool {
    /// Starts so many threads of this name; they end when the last handle is gone.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: &str, threads: usize) -> io::Result<Pool> {
        let wake = (0..threads).map(|_| Condvar::new()).collect();
        let shared = Arc::new(PoolShared { name: name.to_owned(), state: Mutex::default(), wake });
        // Those that have started end with it if another does not.
        let pool = Pool(Arc::new(PoolHandle(Arc::clone(&shared))));
        (0..threads).try_for_each(|number| shared.start(number))?;
        Ok(pool)
    }

    /// Has work done by one of them. It is done to its end, also if nobody waits for it any more.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TaskError> {
        let (done, result) = oneshot::channel();
        // Who asked may have gone.
        self.0.0.queue(Box::new(move || drop(done.send(work()))))?;
        result.await.map_err(|_| TaskError::Panicked)
    }
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.idle.clear();
        drop(state);
        self.0.wake.iter().for_each(|wake| {
            wake.notify_one();
        });
    }
}

impl PoolShared {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock()
    }

    fn queue(&self, job: PoolJob) -> Result<(), TaskError> {
        let mut state = self.state();
        if state.jobs.len() >= self.wake.len() {
            return Err(TaskError::Busy);
        }
        state.jobs.push_back(job);
        if let Some(next) = state.idle.pop() {
            self.wake[next].notify_one();
        }
        Ok(())
    }

    /// Starts the thread of this place.
    fn start(self: &Arc<Self>, place: usize) -> io::Result<()> {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name(self.name.clone());
        thread.spawn(move || shared.serve(place)).map(drop)
    }

    fn serve(self: Arc<Self>, place: usize) {
        let mut state = self.state();
        let mut worked = false;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // What it touched is dropped with it, and the hook has told of the panic.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state();
                worked = true;
                continue;
            }
            if state.closed {
                return;
            }
            if !state.idle.contains(&place) {
                state.idle.push(place);
            }
            let waits = |state: &mut PoolState| state.idle.contains(&place);
            if !worked {
                self.wake[place].wait_while(&mut state, waits);
                continue;
            }
            if self.wake[place].wait_while_for(&mut state, waits, RENEWED_AFTER).timed_out() {
                drop(state);
                // A job that comes meanwhile waits in the queue, where either thread looks first.
                if self.start(place).is_ok() {
                    return;
                }
                worked = false;
                state = self.state();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn all_threads_work_and_outlive_panics() {
        let pool = Pool::start("test", 4).unwrap();
        for _ in 0..8 {
            let panicked = pool.run(|| panic!("a job of a test panics")).await;
            assert_eq!(panicked, Err::<(), _>(TaskError::Panicked));
        }
        // Four that wait for each other need four threads.
        let together = Arc::new(Barrier::new(4));
        let jobs = (0..4).map(|n| {
            let (pool, together) = (pool.clone(), Arc::clone(&together));
            tokio::spawn(async move {
                let job = move || {
                    together.wait();
                    n
                };
                pool.run(job).await
            })
        });
        for (n, job) in jobs.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(job.await.unwrap(), Ok(n));
        }
    }

    #[tokio::test]
    async fn a_thread_without_work_gives_its_place_to_a_new_one() {
        let pool = Pool::start("test", 1).unwrap();
        let id = async || pool.run(|| std::thread::current().id()).await.unwrap();
        let first = id().await;
        assert_eq!(first, id().await, "as long as there is work it stays");
        let deadline = Instant::now() + 30 * RENEWED_AFTER;
        loop {
            tokio::time::sleep(RENEWED_AFTER + RENEWED_AFTER / 4).await;
            if id().await != first {
                break;
            }
            assert!(Instant::now() < deadline, "the first one is still there");
        }
    }

    #[tokio::test]
    async fn more_than_threads_and_queue_is_refused_and_nothing_of_it_is_begun() {
        let pool = Pool::start("test", 1).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun_to, begun) = oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            let job = move || {
                begun_to.send(()).unwrap();
                wait.recv().unwrap();
            };
            async move { pool.run(job).await }
        });
        begun.await.unwrap();
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| ()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(pool.run(|| panic!("it is begun")).await, Err::<(), _>(TaskError::Busy));
        go.send(()).unwrap();
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Ok(())));
    }
}
