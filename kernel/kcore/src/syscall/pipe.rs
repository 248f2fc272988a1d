//! pipe(2).

use abi::Errno;
use abi::fcntl as f;

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::pipe;

/// pipe2(2): the reader's descriptor, then the writer's. Nothing is left open when the pair cannot be stored.
pub fn pipe2(cx: &mut Context<'_>, fds: UserPtr<[i32; 2]>, flags: u32) -> Result<usize> {
    if flags & !(f::O_CLOEXEC | f::O_NONBLOCK | f::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::new_files(&cx.task.creds(), flags & !f::O_CLOEXEC);
    let close_on_exec = flags & f::O_CLOEXEC != 0;
    let files = cx.task.files();
    let read_fd = files.install(reader, close_on_exec)?;
    let write_fd = match files.install(writer, close_on_exec) {
        Ok(fd) => fd,
        Err(error) => {
            files.close(read_fd)?;
            return Err(error);
        }
    };
    if let Err(error) = fds.write(&[read_fd, write_fd]) {
        files.close(read_fd)?;
        files.close(write_fd)?;
        return Err(error);
    }
    Ok(0)
}
