//! Pure: desired pods and observed containers to actions; its shell carries them out.
