//! The one test binary. Table of contents:
