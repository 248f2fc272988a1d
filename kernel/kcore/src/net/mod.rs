//! Sockets. There is one family, `AF_UNIX`, and of it the connected pairs of socketpair(2): what programs use between
//! parent and child. Names, and so bind(2) and connect(2), do not exist yet; socket(2) says `EAFNOSUPPORT`, which is
//! Linux's answer for a family that is not configured.

pub mod unix;
