"""What an adapter is: the method's maths, the file format and the registry. No HTTP here."""
