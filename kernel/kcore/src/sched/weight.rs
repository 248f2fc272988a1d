//! Nice values as weights: each step is about 25 % of CPU share (Linux `sched_prio_to_weight`).

/// The weight of nice 0.
pub const NICE_0_WEIGHT: u32 = 1024;
/// The weight of SCHED_IDLE (Linux `WEIGHT_IDLEPRIO`).
pub const IDLE_WEIGHT: u32 = 3;

/// Linux's table, which user space knows by the shares it gives.
const WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501,
    1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
];

/// The weight of a nice value; values outside -20..=19 are clamped.
pub fn weight_of_nice(nice: i32) -> u32 {
    WEIGHTS[(nice.clamp(-20, 19) + 20) as usize]
}

#[cfg(test)]
mod tests {
    use super::weight_of_nice;

    #[test]
    fn nice_zero_weighs_1024_and_extremes_are_clamped() {
        assert_eq!(weight_of_nice(0), 1024);
        assert_eq!(weight_of_nice(-100), 88761);
        assert_eq!(weight_of_nice(100), 15);
    }
}
