"""The command line entry point that joins the commands of all parts."""
