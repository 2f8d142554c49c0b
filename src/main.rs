//! m2y
fn main() {}
