//! Kernel-wide variables.
//!
//! On the Pi a [`Global`](crate::global::Global) is a plain static. On a PC every test thread has a machine of its own,
//! so the same declaration becomes one value per machine, made when it is first touched. Declare with [`crate::global!`].

#[cfg(target_os = "none")]
mod imp {
    /// A kernel-wide variable of type `T`.
    pub struct Global<T>(T);

    impl<T> Global<T> {
        #[doc(hidden)]
        pub const fn new(value: T) -> Self {
            Self(value)
        }
    }

    impl<T> core::ops::Deref for Global<T> {
        type Target = T;
        #[inline(always)]
        fn deref(&self) -> &T {
            &self.0
        }
    }
}

#[cfg(not(target_os = "none"))]
mod imp {
    use std::any::Any;
    use std::cell::RefCell;
    use std::collections::HashMap;

    thread_local! {
        /// The globals of this thread's machine, by the address of their declaration.
        static VALUES: RefCell<HashMap<usize, &'static (dyn Any + Sync)>> = RefCell::new(HashMap::new());
    }

    /// A kernel-wide variable of type `T`, one per simulated machine.
    pub struct Global<T: 'static> {
        make: fn() -> T,
        // Two zero-sized statics could share an address; a byte keeps every declaration apart.
        _distinct: core::sync::atomic::AtomicU8,
    }

    impl<T: Sync + 'static> Global<T> {
        #[doc(hidden)]
        pub const fn new(make: fn() -> T) -> Self {
            Self { make, _distinct: core::sync::atomic::AtomicU8::new(0) }
        }
    }

    impl<T: Sync + 'static> core::ops::Deref for Global<T> {
        type Target = T;
        fn deref(&self) -> &T {
            let key = core::ptr::from_ref(self) as usize;
            let found = VALUES.with(|v| v.borrow().get(&key).copied());
            let value = found.unwrap_or_else(|| {
                // Leaked on purpose: kernel code holds `'static` references, and a test process is short.
                let fresh: &'static T = Box::leak(Box::new((self.make)()));
                VALUES.with(|v| v.borrow_mut().insert(key, fresh));
                fresh
            });
            (value as &dyn Any).downcast_ref().expect("one declaration has one type")
        }
    }

    /// Forgets every global of this thread: the next machine starts from nothing.
    pub fn reset() {
        VALUES.with(|v| v.borrow_mut().clear());
    }
}

pub use imp::Global;
#[cfg(not(target_os = "none"))]
pub use imp::reset;

/// Declares kernel-wide variables: `hal::global! { /// doc
/// pub static NAME: Type = const_expression; }`.
#[macro_export]
macro_rules! global {
    ($($(#[$meta:meta])* $vis:vis static $name:ident: $ty:ty = $init:expr;)*) => {
        $(
            $(#[$meta])*
            #[cfg(target_os = "none")]
            $vis static $name: $crate::global::Global<$ty> = $crate::global::Global::new($init);
            $(#[$meta])*
            #[cfg(not(target_os = "none"))]
            $vis static $name: $crate::global::Global<$ty> = $crate::global::Global::new(|| $init);
        )*
    };
}
