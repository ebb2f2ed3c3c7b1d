//! All integration tests in one binary: real processes, real sockets, real files.

mod bad_input;
mod catalog;
mod check_training;
mod collective;
mod composer;
mod corpus_plan;
mod corpus_show;
mod loader;
mod model_parity;
mod optimizer;
mod plan;
mod prepare;
mod quickstart;
mod scale;
mod store;
mod support;
mod tidy;
mod tokenizer;
mod train;
