//! What a kernel that is a process must not find on its host.
//!
//! User Mode Linux up to 6.12 saves floating point registers in a buffer of fixed size, which is too
//! small for processors with AMX: its first program dies. It takes the older, smaller set of registers
//! if the host does not offer the larger one; so a filter on the system call says that it does not.
//! Programs in the guest must then do without AVX, whose registers are not kept: the C library is told.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

const GET_REGISTER_SET: u32 = 0x4204;
const SET_REGISTER_SET: u32 = 0x4205;

/// One instruction of the filter: code, jumps if true and if false, operand.
fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).unwrap_or(0);
    libc::sock_filter { code, jt, jf, k }
}

fn filter() -> [libc::sock_filter; 7] {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let load = BPF_LD | BPF_W | BPF_ABS;
    let equal = BPF_JMP | BPF_JEQ | BPF_K;
    let answer = BPF_RET | BPF_K;
    let refused = libc::SECCOMP_RET_ERRNO | libc::EIO.unsigned_abs();
    let ptrace = u32::try_from(libc::SYS_ptrace).unwrap_or(u32::MAX);
    [
        // The number of the call is at 0, its first argument at 16 of what the filter sees.
        instruction(load, 0, 0, 0),
        instruction(equal, 0, 4, ptrace),
        instruction(load, 0, 0, 16),
        instruction(equal, 1, 0, GET_REGISTER_SET),
        instruction(equal, 0, 1, SET_REGISTER_SET),
        instruction(answer, 0, 0, refused),
        instruction(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Whether the processor has more registers than such a kernel can keep.
pub(super) fn needed() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|t| t.contains(" amx_tile"))
}

/// For the environment of the guest's first program.
pub(super) const NO_AVX: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load";

/// The program will not be able to use `PTRACE_GETREGSET` and `PTRACE_SETREGSET`.
pub(super) fn without_register_sets(command: &mut Command) {
    let mut filter = filter();
    let install = move || {
        let program = libc::sock_fprog {
            len: 7,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the program lives on the stack and in the closure until the call has returned.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) != 0
        };
        if failed {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe {
        command.pre_exec(install);
    }
}
