//! User code: closures that reach the kernel through a [`User`].
//!
//! A registered program has an entry address; "return to user code" with that pc runs the closure on the thread's own
//! coroutine. While a closure is inside a door call its pc is a *token* that names the call's nesting depth. When the
//! kernel comes back with the token, the call returns; with token - 4, the system call is executed again (a restart); with
//! another program's entry, that closure runs nested (a signal handler); after an exec, the old closures are unwound.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::context::{self, Yielded, suspend};
use super::cpu::{charge, take_interrupts};
use super::mmu::translate;
use super::ram::{read_frame, write_frame};
use super::state::state;
use crate::mem::{PAGE_SIZE, Pfn};
use crate::thread::work;
use crate::trap::{Access, NO_SYSCALL, PSTATE_SS, PageFault, UserException, UserFrame, syndrome_of};

/// Entry addresses of programs; beyond every address that can be mapped, so none is taken for the other.
const PROGRAM_BASE: u64 = 0x00f0_0000_0000_0000;
/// Where a closure that is in a door call "is".
const TOKEN_BASE: u64 = 0x00f1_0000_0000_0000;
const TOKEN_END: u64 = TOKEN_BASE + (1 << 32);
/// Bytes between the tokens of two nesting depths.
const TOKEN_STEP: u64 = 16;
/// A signal restorer for `sa_restorer`: code there calls rt_sigreturn(2).
pub const HANDLER_RETURN: u64 = 0x00f2_0000_0000_0000;
/// `mov x8, #139`, how the restorer of a vDSO begins.
const MOV_X8_RT_SIGRETURN: u32 = 0xd280_1168;

const SYS_EXIT_GROUP: u64 = 94;
const SYS_RT_SIGRETURN: u64 = 139;
const SYS_EXECVE: u64 = 221;
const SYS_EXECVEAT: u64 = 281;
const SYS_CLONE: u64 = 220;

/// What an entry of a register, an instruction of user code, and a trap into the kernel cost.
const INSTRUCTION_NS: u64 = 100;
const TRAP_NS: u64 = 400;
/// How long user code computes before another CPU may run.
const SLICE_NS: u64 = 50_000;
/// User operations before another CPU may run.
const STEPS: u32 = 4;

/// A user program.
pub enum Program {
    /// May be entered any number of times.
    Many(Box<dyn Fn(&mut User) -> i32>),
    /// Entered once: the other side of a clone.
    Once(std::cell::Cell<Option<Once>>),
}

type Once = Box<dyn FnOnce(&mut User) -> i32>;

/// The payload that unwinds closures whose program is gone.
struct Jump {
    /// An exec: nothing of the old program goes on. Else the depth that the pc names does.
    to_top: bool,
}

/// Registers a closure as a program and returns its entry address. A main program's return value is its exit code; a
/// signal handler's is ignored.
pub fn program(body: impl Fn(&mut User) -> i32 + 'static) -> u64 {
    register(Program::Many(Box::new(body)))
}

fn register(program: Program) -> u64 {
    let mut programs = state().programs.borrow_mut();
    if programs.is_empty() {
        // Number 0 stays free: `udf #0` is what zeroed memory holds.
        programs.push(None);
    }
    let free = programs.iter().skip(1).position(Option::is_none).map(|n| n + 1);
    let index = free.unwrap_or_else(|| {
        programs.push(None);
        programs.len() - 1
    });
    programs[index] = Some(Rc::new(program));
    PROGRAM_BASE + index as u64 * TOKEN_STEP
}

fn unregister(entry: u64) {
    if let Some(index) = program_index(entry) {
        state().programs.borrow_mut()[index] = None;
    }
}

fn program_index(pc: u64) -> Option<usize> {
    let index = usize::try_from(pc.checked_sub(PROGRAM_BASE)? / TOKEN_STEP).ok()?;
    state().programs.borrow().get(index)?.as_ref().map(|_| index)
}

/// The instruction (`udf #n`, Arm ARM C6.2) that runs the program of `entry` when user code reaches it in mapped,
/// executable memory: what an ELF file for the hosted machine holds at its entry point.
pub fn entry_instruction(entry: u64) -> u32 {
    let index = program_index(entry).expect("a registered program");
    u32::from(u16::try_from(index).expect("fewer than 65536 programs"))
}

/// Runs a user thread: from the registers that it was started with until it exits, which does not return.
pub fn run() {
    let mut user = User { depth: 0, arguments: [0; 6] };
    user.leave_kernel();
    loop {
        user.depth = 0;
        match catch_unwind(AssertUnwindSafe(|| user.execute())) {
            Ok(()) => {}
            Err(payload) if payload.is::<Jump>() => {}
            Err(payload) => resume_unwind(payload),
        }
    }
}

/// The registers of the current thread. Not to be held across anything that suspends except the handler it is given to.
fn frame() -> &'static mut UserFrame {
    // SAFETY: the frame of the current thread lives while it runs; only this coroutine and the handlers that it calls
    // touch it, one at a time.
    unsafe { &mut *context::current().arch.frame_pointer() }
}

/// What a user program can do.
pub struct User {
    depth: u64,
    arguments: [u64; 6],
}

impl User {
    /// Register x`n` as it was at the program's entry: the arguments of a signal handler.
    pub fn argument(&self, n: usize) -> u64 {
        self.arguments[n]
    }

    /// The user registers now.
    pub fn registers(&self) -> UserFrame {
        *frame()
    }

    /// The user stack pointer.
    pub fn sp(&self) -> u64 {
        frame().sp
    }

    /// Moves the user stack pointer.
    pub fn set_sp(&mut self, sp: u64) {
        frame().sp = sp;
    }

    /// The thread pointer, TPIDR_EL0.
    pub fn tls(&self) -> u64 {
        context::current().tls()
    }

    /// `svc #0` with the number in x8. Returns x0: a negative errno or the result.
    pub fn syscall(&mut self, number: u64, arguments: [u64; 6]) -> i64 {
        self.call(number, arguments, None)
    }

    /// As [`User::syscall`] for clone, vfork and clone3: the child that it makes goes on in `child`.
    pub fn syscall_with_child(
        &mut self,
        number: u64,
        arguments: [u64; 6],
        child: impl FnOnce(&mut User) -> i32 + 'static,
    ) -> i64 {
        let entry = register(Program::Once(std::cell::Cell::new(Some(Box::new(child)))));
        let result = self.call(number, arguments, Some(entry));
        if result < 0 {
            unregister(entry);
        }
        result
    }

    /// clone(2) with `flags` and the child's stack (0: the same address); the child runs `child` and exits with its value.
    pub fn clone_with(&mut self, flags: u64, stack: u64, child: impl FnOnce(&mut User) -> i32 + 'static) -> i64 {
        self.syscall_with_child(SYS_CLONE, [flags, stack, 0, 0, 0, 0], child)
    }

    fn call(&mut self, number: u64, arguments: [u64; 6], child: Option<u64>) -> i64 {
        self.step();
        let token = self.token();
        {
            let frame = frame();
            frame.x[..6].copy_from_slice(&arguments);
            frame.x[8] = number;
        }
        loop {
            frame().pc = child.unwrap_or(token);
            charge(TRAP_NS);
            let number = frame().x[8];
            frame().original_x0 = frame().x[0];
            frame().syscall = number;
            (state().handlers().syscall)(frame());
            if child == Some(frame().pc) {
                frame().pc = token;
            }
            self.leave_kernel();
            let executed = matches!(number, SYS_EXECVE | SYS_EXECVEAT) && frame().x[30] == 0;
            if !self.settle(token, executed) {
                return frame().x[0].cast_signed();
            }
        }
    }

    /// Reads a value through the MMU; a fault goes to the kernel as from a load instruction.
    pub fn read<T: Plain>(&mut self, address: u64) -> T {
        let mut value = T::default();
        let bytes = self.read_bytes(address, size_of::<T>());
        value.fill(&bytes);
        value
    }

    /// Writes a value through the MMU.
    pub fn write<T: Plain>(&mut self, address: u64, value: T) {
        self.write_bytes(address, &value.bytes());
    }

    /// Reads bytes through the MMU.
    pub fn read_bytes(&mut self, address: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        self.pieces(address, length, Access::Read, |done, pfn, offset, bytes| {
            read_frame(pfn, offset, &mut buffer[done..done + bytes]);
        });
        buffer
    }

    /// Writes bytes through the MMU.
    pub fn write_bytes(&mut self, address: u64, bytes: &[u8]) {
        self.pieces(address, bytes.len(), Access::Write, |done, pfn, offset, length| {
            write_frame(pfn, offset, &bytes[done..done + length]);
        });
    }

    /// Tries an access at `address` and does nothing with it.
    pub fn touch(&mut self, address: u64, access: Access) {
        self.pieces(address, 1, access, |_, _, _, _| {});
    }

    fn pieces(&mut self, address: u64, length: usize, access: Access, mut visit: impl FnMut(usize, Pfn, usize, usize)) {
        let mut done = 0;
        while done < length {
            let at = address.wrapping_add(done as u64);
            let offset = (at as usize) % PAGE_SIZE;
            let bytes = (PAGE_SIZE - offset).min(length - done);
            let pfn = self.reach(at, access);
            visit(done, pfn, offset, bytes);
            done += bytes;
        }
    }

    fn reach(&mut self, address: u64, access: Access) -> Pfn {
        self.step();
        loop {
            match translate(address, access) {
                Ok(pfn) => return pfn,
                Err(fault) => self.except(UserException::PageFault(fault)),
            }
        }
    }

    /// A synchronous exception of this instruction, which is tried again afterwards.
    pub fn except(&mut self, exception: UserException) {
        let token = self.token();
        frame().pc = token;
        self.raise(exception);
        self.settle(token, false);
    }

    fn raise(&mut self, exception: UserException) {
        charge(TRAP_NS);
        frame().syscall = NO_SYSCALL;
        (state().handlers().user_exception)(frame(), exception, syndrome_of(&exception));
        self.leave_kernel();
    }

    /// Gives interrupts and other CPUs a chance, as any instruction of user code does.
    pub fn preempt(&mut self) {
        self.step();
    }

    /// Computes for `ns` of simulated time, interruptibly.
    pub fn compute(&mut self, ns: u64) {
        let mut left = ns;
        while left > 0 {
            let slice = left.min(SLICE_NS);
            charge(slice);
            left -= slice;
            self.interrupt_window();
            suspend(Yielded::Pause);
        }
    }

    /// Ends this process without unwinding the closure, as a program's `_exit` does.
    pub fn exit(&mut self, code: i32) -> ! {
        self.syscall(SYS_EXIT_GROUP, [u64::from(code.cast_unsigned()), 0, 0, 0, 0, 0]);
        panic!("exit_group returned");
    }

    /// One instruction of user code.
    fn step(&mut self) {
        self.take_step_exception();
        charge(INSTRUCTION_NS);
        self.interrupt_window();
        let steps = &state().user_steps;
        steps.set(steps.get() + 1);
        if steps.get() >= STEPS {
            steps.set(0);
            suspend(Yielded::Pause);
        }
    }

    /// Software step: the exception comes before the instruction that follows a stepped one (Arm ARM D2.12).
    fn take_step_exception(&mut self) {
        while context::current().is_single_stepped() {
            let pstate = frame().pstate();
            if pstate & PSTATE_SS != 0 {
                frame().step_done();
                return;
            }
            self.except(UserException::SingleStep);
        }
    }

    /// Takes pending interrupts as user code, and goes through the kernel's exit work.
    fn interrupt_window(&mut self) {
        let token = self.token();
        frame().pc = token;
        frame().syscall = NO_SYSCALL;
        let interrupted = take_interrupts(true);
        if interrupted || has_work() {
            self.leave_kernel();
            self.settle(token, false);
        }
    }

    /// The way out of the kernel: the exit work until none is left.
    fn leave_kernel(&mut self) {
        while has_work() {
            (state().handlers().return_to_user)(frame());
        }
    }

    fn token(&self) -> u64 {
        TOKEN_BASE + self.depth * TOKEN_STEP + 8
    }

    /// Runs what the kernel put into the pc until it comes back to `token`. True: the system call is to be repeated.
    fn settle(&mut self, token: u64, executed: bool) -> bool {
        loop {
            let pc = frame().pc;
            if pc == token {
                return false;
            }
            if pc == token - 4 {
                return true;
            }
            let outer = (TOKEN_BASE..token - 4).contains(&pc);
            if executed || outer {
                resume_unwind(Box::new(Jump { to_top: executed }));
            }
            let depth = self.depth;
            self.depth += 1;
            let result = catch_unwind(AssertUnwindSafe(|| self.execute()));
            self.depth = depth;
            match result {
                Ok(()) => {}
                Err(payload) if is_local(payload.as_ref()) => {}
                Err(payload) => resume_unwind(payload),
            }
        }
    }

    /// Executes user code at the pc until the pc means something else.
    fn execute(&mut self) {
        let pc = frame().pc;
        if let Some(index) = program_index(pc) {
            return self.run_program(index);
        }
        if pc == HANDLER_RETURN {
            return self.bare_syscall(SYS_RT_SIGRETURN, 0);
        }
        if (TOKEN_BASE..TOKEN_END).contains(&pc) {
            // A child of a clone that nobody gave a closure, or a frame forged from an old one.
            return self.bare_syscall(SYS_EXIT_GROUP, 0);
        }
        match self.fetch(pc) {
            Ok(MOV_X8_RT_SIGRETURN) => self.bare_syscall(SYS_RT_SIGRETURN, 0),
            Ok(instruction) => {
                let index = instruction as usize;
                if state().programs.borrow().get(index).is_some_and(Option::is_some) {
                    self.run_program(index);
                } else {
                    self.raise(UserException::Undefined);
                }
            }
            Err(exception) => self.raise(exception),
        }
    }

    fn fetch(&mut self, pc: u64) -> Result<u32, UserException> {
        if !pc.is_multiple_of(4) {
            return Err(UserException::Alignment { address: pc });
        }
        let pfn = translate(pc, Access::Execute).map_err(|fault: PageFault| UserException::PageFault(fault))?;
        let mut bytes = [0; 4];
        read_frame(pfn, (pc as usize) % PAGE_SIZE, &mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    /// Runs a closure. One that was entered with a link register (a signal handler) returns to it; another one exits.
    fn run_program(&mut self, index: usize) {
        let program = state().programs.borrow()[index].clone().expect("looked up by the caller");
        let link = std::mem::take(&mut frame().x[30]);
        let outer = self.arguments;
        self.arguments.copy_from_slice(&frame().x[..6]);
        let code = match &*program {
            Program::Many(body) => body(self),
            Program::Once(body) => {
                let body = body.take();
                state().programs.borrow_mut()[index] = None;
                body.map_or(0, |body| body(self))
            }
        };
        self.arguments = outer;
        if link == 0 {
            return self.bare_syscall(SYS_EXIT_GROUP, u64::from(code.cast_unsigned()));
        }
        frame().pc = link;
    }

    /// A system call after which the pc is whatever the kernel says.
    fn bare_syscall(&mut self, number: u64, argument: u64) {
        charge(TRAP_NS);
        let frame = frame();
        frame.x[0] = argument;
        frame.x[8] = number;
        frame.original_x0 = argument;
        frame.syscall = number;
        (state().handlers().syscall)(frame);
        self.leave_kernel();
    }
}

fn is_local(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<Jump>().is_some_and(|jump| !jump.to_top)
}

fn has_work() -> bool {
    context::current().work().load(Ordering::Relaxed) & work::RETURN_MASK != 0
}

/// Values that user memory can hold.
pub trait Plain: Copy + Default {
    /// Little-endian bytes.
    fn bytes(self) -> Vec<u8>;
    /// From little-endian bytes.
    fn fill(&mut self, bytes: &[u8]);
}

macro_rules! plain {
    ($($int:ty),*) => {$(
        impl Plain for $int {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn fill(&mut self, bytes: &[u8]) {
                *self = <$int>::from_le_bytes(bytes.try_into().expect("the size of the type"));
            }
        }
    )*};
}
plain!(u8, u16, u32, u64, usize, i32, i64);
