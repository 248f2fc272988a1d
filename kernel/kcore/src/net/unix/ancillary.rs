//! What travels beside the bytes: open files (SCM_RIGHTS) and credentials (SCM_CREDENTIALS), unix(7), "Ancillary
//! messages"; and the collector for sockets that only their own messages refer to.
//!
//! A socket that is sent through itself and closed is referred to by its own queue alone, and would stay for ever. As
//! Linux's `unix_gc` does, [`collect`] looks at the sockets that are on their way: those whose every reference lies in
//! the queue of such a socket, and which no other socket's queue leads to, are emptied.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use abi::resource::RLIMIT_NOFILE;
use abi::socket::Ucred;

use super::Socket;
use crate::Result;
use crate::fs::File;
use crate::fs::user_count::UserCount;
use crate::sync::Mutex;
use crate::task::{current, pid};

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Sender {
    /// What a receiver sees of a sender that was not asked to say who it is (Linux: no pid and the overflow ids).
    pub const UNKNOWN: Self = Self { pid: 0, uid: 65_534, gid: 65_534 };

    /// As SCM_CREDENTIALS and SO_PEERCRED have it.
    pub fn ucred(self) -> Ucred {
        let reader = current().creds().user_ns.clone();
        Ucred { pid: pid::shown(self.pid), uid: reader.shown_uid(self.uid), gid: reader.shown_gid(self.gid) }
    }
}

/// Beside the bytes of one message.
#[derive(Clone, Default)]
pub struct Ancillary {
    /// `None`: nobody asked.
    pub sender: Option<Sender>,
    /// Open files, to become descriptors of the receiver.
    pub files: Vec<Arc<File>>,
    /// They count as the sender's until they are received; a copy made by MSG_PEEK counts no second time.
    pub charge: Option<Arc<Charge>>,
}

/// Files of a user that are on their way.
pub struct Charge {
    uid: u32,
    count: u64,
}

impl Charge {
    /// Counts files as on their way. `ETOOMANYREFS` when the user has more than RLIMIT_NOFILE there already, but for
    /// CAP_SYS_RESOURCE and CAP_SYS_ADMIN (unix(7), Linux `too_many_unix_fds`).
    fn new(count: u64) -> Result<Arc<Self>> {
        let task = current();
        let uid = task.creds().uid;
        let exempt = task.capable(CAP_SYS_RESOURCE) || task.capable(CAP_SYS_ADMIN);
        let over = ON_THEIR_WAY.count(uid) > task.rlimit(RLIMIT_NOFILE);
        if over && !exempt || !ON_THEIR_WAY.charge(uid, count, u64::MAX) {
            return Err(Errno::ETOOMANYREFS);
        }
        Ok(Arc::new(Self { uid, count }))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        ON_THEIR_WAY.uncharge(self.uid, self.count);
    }
}

impl Ancillary {
    /// Counts the files as being on their way, and remembers the sockets among them.
    pub fn depart(&mut self) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        self.charge = Some(Charge::new(self.files.len() as u64)?);
        for file in self.files.iter().filter(|file| file.ops_as::<Socket>().is_some()) {
            IN_FLIGHT.lock().insert(key(file), Arc::downgrade(file));
        }
        Ok(())
    }
}

hal::global! {
    /// Files on their way, by user.
    static ON_THEIR_WAY: UserCount = UserCount::new();
    /// The sockets that were ever sent and may still be in a queue, by their addresses.
    static IN_FLIGHT: Mutex<BTreeMap<usize, Weak<File>>> = Mutex::new(BTreeMap::new());
    /// One collects at a time.
    static COLLECTING: Mutex<()> = Mutex::new(());
}

fn key(file: &Arc<File>) -> usize {
    Arc::as_ptr(file).addr()
}

/// The sockets on their way, and how they refer to each other.
struct Graph {
    files: Vec<Arc<File>>,
    /// By file: the files in its queue.
    inside: Vec<Vec<usize>>,
    /// By file: references from anywhere but these queues and this graph.
    outside: Vec<usize>,
}

impl Graph {
    fn new(files: &[Arc<File>]) -> Self {
        let index: BTreeMap<usize, usize> = files.iter().enumerate().map(|(at, file)| (key(file), at)).collect();
        let mut inside = alloc::vec![Vec::new(); files.len()];
        let mut found = alloc::vec![0; files.len()];
        for (file, inside) in files.iter().zip(&mut inside) {
            let Some(socket) = file.ops_as::<Socket>() else { continue };
            socket.endpoint().each_file(|sent| {
                if let Some(&at) = index.get(&key(sent)) {
                    inside.push(at);
                    found[at] += 1;
                }
            });
        }
        let graph = files.to_vec();
        // One reference is the caller's, one ours.
        let outside =
            graph.iter().zip(found).map(|(file, found)| Arc::strong_count(file).saturating_sub(found + 2)).collect();
        Self { files: graph, inside, outside }
    }

    /// The files that nothing outside leads to.
    fn unreachable(&self) -> Vec<usize> {
        let mut reached = alloc::vec![false; self.files.len()];
        let mut todo: Vec<usize> = (0..self.files.len()).filter(|&at| self.outside[at] > 0).collect();
        while let Some(at) = todo.pop() {
            if !core::mem::replace(&mut reached[at], true) {
                todo.extend(&self.inside[at]);
            }
        }
        (0..self.files.len()).filter(|&at| !reached[at]).collect()
    }
}

/// Empties the queues of sockets that nobody can reach any more. Called when a socket is closed.
pub fn collect() {
    // Dropping what is found closes sockets, which comes here again: the one at work sees to those.
    let Some(_turn) = COLLECTING.try_lock() else { return };
    loop {
        let files: Vec<Arc<File>> = {
            let mut in_flight = IN_FLIGHT.lock();
            in_flight.retain(|_, file| file.strong_count() > 0);
            in_flight.values().filter_map(Weak::upgrade).collect()
        };
        if files.is_empty() {
            return;
        }
        let garbage = Graph::new(&files).unreachable();
        // A receiver may have taken a file out of a queue between our looking there and our counting. Nobody can
        // receive from what is really unreachable, so there a second look finds the same.
        if garbage.is_empty() || Graph::new(&files).unreachable() != garbage {
            return;
        }
        for &at in &garbage {
            if let Some(socket) = files[at].ops_as::<Socket>() {
                drop(socket.endpoint().purge());
            }
        }
    }
}
