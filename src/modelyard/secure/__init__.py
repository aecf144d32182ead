"""Pure rules of security: keys, rates, signatures, redaction."""
