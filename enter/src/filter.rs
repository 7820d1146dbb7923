//! Filters of a task's system calls (seccomp(2)).
//!
//! [`faked`] is of a remapped root: changes of owner and identity appear to succeed and do nothing. In a user namespace
//! with one id, nobody else exists to give a file to or to become; package managers and archives try all the same and
//! would give up. This is a convenience, no protection: calls by another architecture's numbers are left alone, and all
//! that is faked would fail.
//!
//! [`denied`] is a protection, of the kernel, where the site wants it: a task lacks calls that reach deep into it.

use libc::{c_long, sock_filter};

/// The architecture that numbers are of (linux/audit.h).
const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else if cfg!(target_arch = "riscv64") {
    0xc000_00f3
} else {
    // With another's number no call would ever match, and nothing be denied.
    panic!("the filters do not know this architecture's number")
};

/// What is faked.
const FAKED: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    // These return the id before, which is 0 as well.
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];

/// What is denied: keys, programs and probes in the kernel, rings that pass filters by, and all that hands bytes to its
/// parsers, which a task could call in a user namespace of its own.
const DENIED: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
];

/// Calls of the x32 ABI have this bit in their number, and the same architecture (asm/unistd.h).
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data` (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Changes of owner and identity are answered with success. Error 0 is that.
pub(crate) fn faked() -> Vec<sock_filter> {
    answering(FAKED, libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_ALLOW)
}

/// What is denied, and whatever is not called by this architecture's numbers, is answered with ENOSYS: programs then try
/// other ways, or do without.
pub(crate) fn denied() -> Vec<sock_filter> {
    let none = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    answering(DENIED, none, none)
}

/// Answers these calls so, calls by numbers of another architecture `otherwise`, and lets all others through.
fn answering(calls: &[c_long], so: u32, otherwise: u32) -> Vec<sock_filter> {
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equals =
        |k, then, otherwise| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, then, otherwise, k);
    let at_least = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32);
    let answer = |k| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let mut program = vec![load(ARCHITECTURE), equals(ARCH, 1, 0), answer(otherwise), load(NUMBER)];
    program.extend([at_least, answer(otherwise)]);
    for (at, number) in calls.iter().enumerate() {
        // Over the comparisons after this one, and over the answer that follows them.
        program.push(equals(*number as u32, (calls.len() - at) as u8, 0));
    }
    program.extend([answer(libc::SECCOMP_RET_ALLOW), answer(so)]);
    program
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(program: &[sock_filter], arch: u32, number: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => loaded = if step.k == NUMBER { number } else { arch },
                libc::BPF_JMP => {
                    let greater = u32::from(step.code) & 0xf0 == libc::BPF_JGE;
                    let holds = if greater { loaded >= step.k } else { loaded == step.k };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
                _ => return step.k,
            }
        }
    }

    /// 32-bit programs of x86, and of ARM.
    const OTHERS: [u32; 2] = [0x4000_0003, 0x4000_0028];

    #[test]
    fn owners_and_identities_are_faked_and_nothing_else() {
        for number in 0..600 {
            let faked = FAKED.contains(&c_long::from(number));
            let answer = if faked { libc::SECCOMP_RET_ERRNO } else { libc::SECCOMP_RET_ALLOW };
            assert_eq!(run(&super::faked(), ARCH, number), answer, "call {number}");
            // The same number is another call elsewhere.
            for arch in OTHERS {
                assert_eq!(run(&super::faked(), arch, number), libc::SECCOMP_RET_ALLOW);
            }
        }
    }

    #[test]
    fn what_is_denied_has_no_other_number_to_be_called_by() {
        let none = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for number in 0..600 {
            let denied = DENIED.contains(&c_long::from(number));
            let answer = if denied { none } else { libc::SECCOMP_RET_ALLOW };
            assert_eq!(run(&super::denied(), ARCH, number), answer, "call {number}");
            assert_eq!(run(&super::denied(), ARCH, number | X32), none, "x32 {number}");
            for arch in OTHERS {
                assert_eq!(run(&super::denied(), arch, number), none, "{arch:#x} {number}");
            }
        }
        for needed in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_clone3] {
            assert!(!DENIED.contains(&needed));
        }
    }
}
