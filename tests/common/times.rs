//! Whether two samples of times could be of the same kind.

/// The Mann-Whitney statistic as a standard normal, and the Kolmogorov-Smirnov distance in
/// units of its 0.1 % limit.
pub fn compare(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (n, m) = (a.len() as f64, b.len() as f64);
    let mut all: Vec<(f64, bool)> = a.iter().map(|x| (*x, true)).collect();
    all.extend(b.iter().map(|x| (*x, false)));
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut ranks, mut in_a, mut in_b, mut distance) = (0.0, 0.0, 0.0, 0_f64);
    for (rank, (_, is_a)) in (1..).zip(&all) {
        if *is_a {
            ranks += f64::from(rank);
            in_a += 1.0 / n;
        } else {
            in_b += 1.0 / m;
        }
        distance = distance.max(f64::abs(in_a - in_b));
    }
    let u = ranks - n * (n + 1.0) / 2.0;
    let z = (u - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt();
    (z, distance / (1.949 * ((n + m) / (n * m)).sqrt()))
}

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
