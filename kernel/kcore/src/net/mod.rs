//! Sockets. There is one family, `AF_UNIX`: unix(7). Others do not exist: socket(2) says `EAFNOSUPPORT`, which is Linux's
//! answer for a family that is not configured.

pub mod unix;
