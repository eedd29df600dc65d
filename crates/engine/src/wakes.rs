//! Tasks that read events are woken once a step, all together.
//!
//! Where all cores compute, a thread that is woken takes the core of the one that wakes it, has little to do, and sleeps
//! again: two changes of threads for each event of a step. So the loop [`hold`]s wakes back until a step is over. Several
//! readers are woken by a task beside them then, for which waking is but a place in a queue of its runtime; a lone one by
//! the loop. Threads that block on events are not held back.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Wake, Waker};

use tokio::runtime::{Handle, Id};

thread_local! {
    /// Whom this thread wakes when it is done with what it is at; `None` while it holds nothing back.
    static HELD: RefCell<Option<Vec<Arc<Reader>>>> = const { RefCell::new(None) };
}

/// Somebody who waits for events. Woken by a thread that [`hold`]s wakes back, it is woken when that is over.
#[derive(Debug)]
pub(crate) struct Reader {
    waker: Waker,
    /// Where it runs, if it is a task of tokio.
    runtime: Option<Handle>,
}

impl Reader {
    /// The reader behind `waker`, which is what this thread is running.
    pub(crate) fn new(waker: &Waker) -> Arc<Self> {
        // What a runtime only blocks on is no task: it may run while the runtime's tasks do not.
        let runtime = tokio::task::try_id().and_then(|_| Handle::try_current().ok());
        Arc::new(Self { waker: waker.clone(), runtime })
    }

    /// Whether it is the one behind `waker`.
    pub(crate) fn is_behind(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker)
    }

    fn runtime_id(&self) -> Option<Id> {
        self.runtime.as_ref().map(Handle::id)
    }
}

impl Wake for Reader {
    fn wake(self: Arc<Self>) {
        let free = HELD.with_borrow_mut(|held| match held {
            Some(held) => {
                held.push(self);
                None
            }
            None => Some(self),
        });
        // Waking may run anything, another reader's wake too.
        if let Some(reader) = free {
            reader.waker.wake_by_ref();
        }
    }
}

/// While it lives, this thread wakes no reader; then all that it would have.
#[must_use]
pub(crate) struct Hold {
    /// It belongs to its thread.
    _of_thread: PhantomData<*const ()>,
}

/// Holds back the wakes of this thread, where none are held back yet.
pub(crate) fn hold() -> Hold {
    let before = HELD.replace(Some(Vec::new()));
    debug_assert!(before.is_none(), "wakes are held back already");
    Hold { _of_thread: PhantomData }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut readers = HELD.take().unwrap_or_default();
        while let Some(id) = readers.first().map(|reader| reader.runtime_id()) {
            wake_all(readers.extract_if(.., |reader| reader.runtime_id() == id).collect());
        }
    }
}

/// Wakes readers of one runtime: by a task there if they are several.
fn wake_all(readers: Vec<Arc<Reader>>) {
    /// Readers who are woken when this goes, be it with a task that never runs.
    struct Asleep(Vec<Arc<Reader>>);
    impl Drop for Asleep {
        fn drop(&mut self) {
            self.0.iter().for_each(|reader| reader.waker.wake_by_ref());
        }
    }
    let runtime = readers[0].runtime.clone().filter(|_| readers.len() > 1);
    let asleep = Asleep(readers);
    match runtime {
        Some(runtime) => drop(runtime.spawn(async move { drop(asleep) })),
        None => drop(asleep),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::Sender;
    use std::time::Duration;

    use super::*;
    use crate::EngineConfig;
    use crate::event::{Event, Events};
    use crate::inbox::{Inbox, RequestId};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reader() -> (Waker, impl Fn() -> usize) {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Reader::new(&Waker::from(Arc::clone(&count))));
        (waker, move || count.0.load(Ordering::Relaxed))
    }

    #[test]
    fn readers_wait_until_wakes_are_no_longer_held_back() {
        let (a, wakes_of_a) = reader();
        let (b, wakes_of_b) = reader();
        a.wake_by_ref();
        assert_eq!((wakes_of_a(), wakes_of_b()), (1, 0), "nothing is held back yet");
        let held = hold();
        a.wake_by_ref();
        b.wake_by_ref();
        assert_eq!((wakes_of_a(), wakes_of_b()), (1, 0));
        drop(held);
        assert_eq!((wakes_of_a(), wakes_of_b()), (2, 1));
        b.wake_by_ref();
        assert_eq!((wakes_of_a(), wakes_of_b()), (2, 2), "nothing is held back any more");
    }

    #[test]
    fn a_panic_wakes_those_who_were_held_back() {
        let (waker, wakes) = reader();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let _held = hold();
            waker.wake_by_ref();
            panic!("on purpose");
        }));
        assert!(outcome.is_err());
        assert_eq!(wakes(), 1);
    }

    /// Reads an event, and tells when it waits for it.
    async fn read(mut events: Events, waits: Sender<()>) -> Option<Event> {
        // It looks once as another task: who waits in the end is this one.
        let look = async move { (tokio::time::timeout(Duration::ZERO, events.recv()).await, events) };
        let (looked, mut events) = tokio::spawn(look).await.expect("no panic");
        assert!(looked.is_err(), "{looked:?}");
        let mut event = std::pin::pin!(events.recv());
        poll_fn(|cx| {
            let polled = event.as_mut().poll(cx);
            // The first time is enough; then nobody listens any more.
            let _ = waits.send(());
            polled
        })
        .await
    }

    #[test]
    fn tasks_of_several_runtimes_are_woken() {
        let inbox = Arc::new(Inbox::new(EngineConfig::default().bounds()));
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtimes = [(); 2].map(|()| runtime().expect("a runtime"));
        let event = || Event::PromptLogprobs(Vec::new());
        let (senders, tasks): (Vec<_>, Vec<_>) = (0..6)
            .map(|at| {
                let (sender, _, events) = Events::channel(RequestId(at), 1, 1, &inbox);
                let (waits, is_waiting) = std::sync::mpsc::channel();
                let task = runtimes[at as usize % 2].spawn(read(events, waits));
                is_waiting.recv().expect("the task looks");
                (sender, task)
            })
            .unzip();
        let held = hold();
        senders.iter().for_each(|sender| sender.try_send(event()).expect("there is room"));
        drop(held);
        for (at, task) in tasks.into_iter().enumerate() {
            assert_eq!(runtimes[at % 2].block_on(task).expect("no panic"), Some(event()));
        }
    }

    #[test]
    fn readers_are_woken_although_their_runtime_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let tasks = async { tokio::spawn(async { (0..3).map(|_| reader()).unzip() }).await.expect("no panic") };
        let (readers, wakes): (Vec<_>, Vec<_>) = runtime.block_on(tasks);
        drop(runtime);
        let held = hold();
        readers.iter().for_each(Waker::wake_by_ref);
        drop(held);
        assert!(wakes.iter().all(|wakes| wakes() == 1));
    }
}
