//! evo1
fn main(){}
