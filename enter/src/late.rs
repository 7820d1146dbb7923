//! Sets a build free that is given up.
//!
//! libc's seteuid(2) tells all threads of slurmstepd and waits for each (nptl(7)); Slurm calls it right after the build.
//! A builder thread that waits for a server would hang slurmstepd there: such a wait hears no signal, and need not end
//! with the server, as somebody else may have its connection, or its file system hangs. Then root can end it
//! (`unkillable`). By a thread of its own: whoever waits for the build may be the user just then, and in a process with
//! other descriptors (Slurm's contain_spank).

use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::call::{Broken, Called};
use crate::deadline::Deadline;
use crate::server::{kill, Served};
use crate::sys::{unshare, with_signals_blocked};
use crate::unkillable::Connection;

/// How often is looked once the build has been given up; within that time it may end by itself.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches a build's servers until it is dropped, which the build itself does when it ends.
#[derive(Debug)]
pub(crate) struct Late {
    connections: Option<Sender<Connection>>,
    uid: u32,
    thread: Option<JoinHandle<()>>,
}

impl Late {
    /// For the calling thread's build, for the user `uid`.
    pub fn watch(deadline: &Deadline, uid: u32) -> Called<Self> {
        let (connections, given) = channel();
        let (ready, is_ready) = channel();
        let deadline = deadline.clone();
        let work = move || {
            // A builder that shares its root and directory can enter no mount namespace (setns(2)).
            let _ = ready.send(unshare(false));
            free(&given, &deadline);
        };
        let thread = with_signals_blocked(|| {
            std::thread::Builder::new().name("grus-late".into()).stack_size(128 << 10).spawn(work)
        });
        let thread = thread.map_err(|e| Broken::io("clone(CLONE_THREAD)", &e))?;
        let late = Self { connections: Some(connections), uid, thread: Some(thread) };
        // It ends without an answer only by a panic.
        is_ready.recv().unwrap_or(Ok(())).map(|()| late)
    }

    /// The build may wait for this server from now on.
    pub fn add(&self, served: &Served) -> Called<()> {
        let connection = Connection::of(served, self.uid)?;
        // Only a thread that has panicked does not hear.
        let _ = self.connections.as_ref().map(|to| to.send(connection));
        Ok(())
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        drop(self.connections.take());
        // It catches nothing, and its panic would be nobody's here.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Nobody waits for the build any more, and it still waits for these: they are given up, and their servers ended. A
/// server that others use too, of a kept container, is spared as long as nobody waits for it.
fn free(given: &Receiver<Connection>, deadline: &Deadline) {
    let mut connections = vec![];
    loop {
        match given.recv_timeout(INTERVAL) {
            Ok(connection) => connections.push(connection),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if deadline.abandoned() => {
                for connection in connections.iter().filter(|connection| connection.is_waited_for()) {
                    let _ = connection.give_up();
                    kill(connection.server);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
