//! Medians, and what makes them believable.

use std::fmt;

/// Measurements of one thing, in one unit.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The value at this share of the sorted samples; 0 if there are none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The differences to samples that were taken in the same rounds.
    pub fn minus(&self, other: &Samples) -> Samples {
        Samples(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, middle, high) = (self.quantile(0.1), self.median(), self.quantile(0.9));
        write!(f, "median {middle:8.2}   p10 {low:8.2}   p90 {high:8.2}   n {}", self.0.len())
    }
}

/// `value` with this many digits after the point, for the JSON line.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Prints the machine's load (proc_loadavg(5)); figures taken under load are noisy.
pub fn print_load(when: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("load {when}: {} on {cores} cores", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_many() {
        assert_eq!(Samples::default().median(), 0.0);
        assert_eq!(Samples(vec![3.0]).median(), 3.0);
        let samples = Samples((0..=100).rev().map(f64::from).collect());
        assert_eq!((samples.quantile(0.1), samples.median(), samples.quantile(0.9)), (10.0, 50.0, 90.0));
        assert_eq!(samples.minus(&Samples(vec![1.0; 101])).median(), 49.0);
    }
}
