"""The parts of a report and of a comparison, each with its texts, tables and figures."""
