//! What is said through `log` and `defmt`, or through neither. Arguments are numbers, which both can write.

macro_rules! say {
    ($level:ident, $text:literal $(, $argument:expr)*) => {{
        #[cfg(feature = "log")]
        log::$level!($text $(, $argument)*);
        #[cfg(feature = "defmt")]
        defmt::$level!($text $(, $argument)*);
        // Neither: the arguments are used, and never evaluated.
        #[cfg(not(any(feature = "log", feature = "defmt")))]
        let _ = || { $(let _ = &$argument;)* };
    }};
}

pub(crate) use say;
