//! The filter of a remapped root: changes of owner and identity appear to succeed and do nothing.
//!
//! In a user namespace with one id, nobody else exists to give a file to or to become; package managers and archives
//! try all the same and would give up. This is a convenience, no protection: calls by another architecture's numbers
//! are left alone, and all that is faked would fail.

use libc::{c_long, sock_filter};

/// The architecture that numbers are of (linux/audit.h).
const ARCH: u32 = match cfg!(target_arch = "aarch64") {
    true => 0xc000_00b7,
    false => 0xc000_003e,
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

/// Offsets in `struct seccomp_data` (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The filter's program.
pub(crate) fn filter() -> Vec<sock_filter> {
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equals =
        |k, then, otherwise| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, then, otherwise, k);
    let answer = |k| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let mut program =
        vec![load(ARCHITECTURE), equals(ARCH, 1, 0), answer(libc::SECCOMP_RET_ALLOW), load(NUMBER)];
    for (at, number) in FAKED.iter().enumerate() {
        // Over the comparisons after this one, and over the answer that follows them.
        program.push(equals(*number as u32, (FAKED.len() - at) as u8, 0));
    }
    // Error 0 is success.
    program.extend([answer(libc::SECCOMP_RET_ALLOW), answer(libc::SECCOMP_RET_ERRNO)]);
    program
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(arch: u32, number: u32) -> u32 {
        let (program, mut at, mut loaded) = (filter(), 0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => loaded = if step.k == NUMBER { number } else { arch },
                libc::BPF_JMP => at += usize::from(if loaded == step.k { step.jt } else { step.jf }),
                _ => return step.k,
            }
        }
    }

    #[test]
    fn owners_and_identities_are_faked_and_nothing_else() {
        for number in 0..600 {
            let faked = FAKED.contains(&c_long::from(number));
            let answer = if faked { libc::SECCOMP_RET_ERRNO } else { libc::SECCOMP_RET_ALLOW };
            assert_eq!(run(ARCH, number), answer, "call {number}");
            // The same number is another call elsewhere.
            assert_eq!(run(0x4000_0003, number), libc::SECCOMP_RET_ALLOW);
        }
    }
}
