//! Counts the bytes of a fixed sequence, prints the count of each sixteenth value and the time that one count took.

use std::time::Instant;

const BYTES: usize = 1 << 22;

#[cfg(not(feature = "wide"))]
fn histogram(data: &[u8]) -> [u32; 256] {
    let mut counts = [0u32; 256];
    for &byte in data {
        counts[byte as usize] += 1;
    }
    counts
}

#[cfg(feature = "wide")]
fn histogram(data: &[u8]) -> [u32; 256] {
    let mut tables = [[0u32; 256]; 4];
    for group in data.chunks_exact(4) {
        for (table, &byte) in tables.iter_mut().zip(group) {
            table[byte as usize] += 1;
        }
    }
    let mut counts = [0u32; 256];
    for table in &tables {
        for (count, more) in counts.iter_mut().zip(table) {
            *count += more;
        }
    }
    counts
}

fn main() {
    let mut state = 1u32;
    let data: Vec<u8> = (0..BYTES)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 28) as u8 * 16
        })
        .collect();
    let mut counts = [0u32; 256];
    for _ in 0..5 {
        let start = Instant::now();
        counts = histogram(&data);
        eprintln!("one histogram: {:.3} us", start.elapsed().as_secs_f64() * 1e6);
    }
    for value in (0..256).step_by(16) {
        println!("{value} {}", counts[value]);
    }
}
