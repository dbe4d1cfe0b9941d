"""The code of the user, and how it runs here: loaded from a file, called in its time, in a process that is
put back as it was. And programs that are to end with the process that began them."""
