//! Absent steps (NaN) replaced by what lies on the line between their neighbours: for kernels that need a value at every step.
//!
//! Seasons go by the clock, so a gap must keep its length. Dropping it, as the unit root test does, would move all phases behind it.

/// Leaves the values in `filled`, with gaps interpolated; those at an end take the nearest value. The share of absent steps.
///
/// What is not finite is absent. With no value at all, `filled` is all zeros and the share is 1; of no steps the share is 0.
pub fn interpolate(values: &[f64], filled: &mut Vec<f64>) -> f64 {
    filled.clear();
    let (mut older, mut absent): (Option<f64>, usize) = (None, 0);
    for value in values.iter().copied() {
        if value.is_finite() {
            fill(&mut filled[..], older, Some(value), values.len());
            older = Some(value);
        }
        absent += usize::from(!value.is_finite());
        filled.push(value);
    }
    fill(&mut filled[..], older, None, values.len());
    if absent == 0 { 0.0 } else { absent as f64 / values.len() as f64 }
}

/// Fills the gap at the end of these values.
fn fill(values: &mut [f64], older: Option<f64>, newer: Option<f64>, most: usize) {
    let length = values.iter().rev().take(most).take_while(|value| !value.is_finite()).count();
    let (from, to) = match (older, newer) {
        (Some(older), Some(newer)) => (older, newer),
        (Some(value), None) | (None, Some(value)) => (value, value),
        (None, None) => (0.0, 0.0),
    };
    let start = values.len() - length;
    for (i, value) in values[start..].iter_mut().enumerate() {
        let part = (i + 1) as f64 / (length + 1) as f64;
        *value = if from == to { from } else { from * (1.0 - part) + to * part };
    }
}

#[cfg(test)]
mod tests {
    use super::interpolate;

    #[test]
    fn gaps_lie_on_lines_between_their_neighbours() {
        let (gap, mut filled) = (f64::NAN, Vec::new());
        for (values, want, share) in [
            (&[][..], &[][..], 0.0),
            (&[1.0, 2.0], &[1.0, 2.0], 0.0),
            (&[1.0, gap, gap, 4.0], &[1.0, 2.0, 3.0, 4.0], 0.5),
            (&[gap, 7.0, gap, f64::INFINITY], &[7.0, 7.0, 7.0, 7.0], 0.75),
            (&[gap, gap], &[0.0, 0.0], 1.0),
            (&[-f64::MAX, gap, f64::MAX], &[-f64::MAX, 0.0, f64::MAX], 1.0 / 3.0),
            (&[0.1, gap, gap, gap, 0.1], &[0.1; 5], 0.6),
        ] {
            assert_eq!(interpolate(values, &mut filled), share, "{values:?}");
            let near = filled.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-15 * want.abs());
            assert!(near && filled.len() == want.len(), "{values:?}: {filled:?}");
        }
    }
}
